"""Data sets of texts, held against Hugging Face's tokenizers, PyTorch and ONNX Runtime."""

import json

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

import graph_tools
import models
import texts as own
from conftest import END_STATES, assert_problem

ODD = ["naïve façade – “quoted”…", "emoji 👩‍👩‍👧 and 𝒻ancy", "tabs\tand\nlines\r\nof it", "ＦＵＬＬ width ﬁ ligature", "مرحبا بالعالم",
       "数字１２３と漢字", "a" * 300, "...", "x", "zero\u200bwidth", "  spaces   everywhere  ", "CamelCaseAnd_snake_case-1.5e-3",
       "é and e\u0301", "\ufeffmark"]


@pytest.fixture(scope="module")
def documents():
    return own.documentation()


@pytest.fixture(scope="module")
def chapters():
    return own.sentences()


def post(server, route, name, files, **params):
    parts = [("file", (path, content)) for path, content in files.items()]
    return server.post(f"/v1/{route}", params={"name": name, **params}, files=parts)


def upload(server, name, files, route="datasets", **params):
    answer = post(server, route, name, files, **params)
    assert answer.status_code == 201, answer.text
    return answer.json()


def with_tokenizer(tokenizer, **files):
    return {**files, "tokenizer.json": tokenizer.to_str().encode()}


def mirror(names=("input_ids", "attention_mask", "token_type_ids"), length="tokens"):
    """A model that answers with what it is given."""
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", length])
    nodes = [helper.make_node("Identity", [name], [f"{name}_seen"]) for name in names]
    graph = helper.make_graph(nodes, "mirror", [value(name) for name in names], [value(f"{name}_seen") for name in names])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def predicted(server, model, texts, **preprocess):
    params = {"preprocess": json.dumps(preprocess)} if preprocess else {}
    answer = server.post(f"/v1/models/{model['id']}/predict", json={"texts": texts}, params=params)
    assert answer.status_code == 200, answer.text
    return {output["name"]: np.array(output["values"]) for output in answer.json()["outputs"]}


# Tokens.


@pytest.mark.parametrize("kind", ["word_piece", "byte_pairs", "unigrams", "characters"])
def test_tokens_are_those_of_hugging_face(server, documents, kind):
    tokenizer = getattr(own, kind)(documents)
    model = upload(server, kind, {"model.onnx": mirror(), "tokenizer.json": tokenizer.to_str().encode()}, "models")
    assert model["summary"]["tokenizer"]["vocabulary"] == tokenizer.get_vocab_size()
    texts = documents[:150] + ODD
    for length in (7, 40, 400):
        seen = predicted(server, model, texts, max_length=length)
        wanted = own.encoded(tokenizer, texts, length)
        for name, values in zip(("input_ids", "attention_mask", "token_type_ids"), wanted):
            np.testing.assert_array_equal(seen[f"{name}_seen"], values, name)
    pairs = list(map(list, zip(texts[:60], texts[60:120])))
    seen = predicted(server, model, pairs, max_length=50)
    for name, values in zip(("input_ids", "attention_mask", "token_type_ids"), own.encoded(tokenizer, pairs, 50)):
        np.testing.assert_array_equal(seen[f"{name}_seen"], values, name)


def test_the_padding_and_the_direction_are_those_of_the_file(server, documents):
    tokenizer = own.byte_pairs(documents)
    tokenizer.enable_padding(direction="left", pad_id=9, pad_type_id=1)
    tokenizer.enable_truncation(12, direction="left")
    model = upload(server, "left", {"model.onnx": mirror(), "tokenizer.json": tokenizer.to_str().encode()}, "models")
    assert {key: model["summary"]["tokenizer"][key] for key in ("pad_token", "pad_type", "pads_left", "max_length")} == {
        "pad_token": 9, "pad_type": 1, "pads_left": True, "max_length": 12}
    tokenizer.enable_padding(direction="left", pad_id=9, pad_type_id=1, length=12)
    texts = documents[:30] + ["x"]
    seen = predicted(server, model, texts)
    for name, part in [("input_ids", "ids"), ("attention_mask", "attention_mask"), ("token_type_ids", "type_ids")]:
        np.testing.assert_array_equal(seen[f"{name}_seen"], [getattr(one, part) for one in tokenizer.encode_batch(texts)])


def test_inputs_are_told_by_their_names(server, documents):
    tokenizer = own.word_piece(documents)
    content = mirror(("src", "position_ids", "segment_ids", "src_mask"))
    model = upload(server, "names", {"m.onnx": content, "tokenizer.json": tokenizer.to_str().encode()}, "models")
    seen = predicted(server, model, documents[:3], max_length=20)
    ids, mask, types = own.encoded(tokenizer, documents[:3], 20)
    np.testing.assert_array_equal(seen["src_seen"], ids)
    np.testing.assert_array_equal(seen["src_mask_seen"], mask)
    np.testing.assert_array_equal(seen["segment_ids_seen"], types)
    np.testing.assert_array_equal(seen["position_ids_seen"], np.arange(20) * mask)
    only = upload(server, "only", {"m.onnx": mirror(("whatever",)), "tokenizer.json": tokenizer.to_str().encode()}, "models")
    np.testing.assert_array_equal(predicted(server, only, documents[:3], max_length=20)["whatever_seen"], ids)
    answer = server.post("/v1/models", params={"name": "odd"}, files=[
        ("file", ("m.onnx", mirror(("input_ids", "zebra")))), ("file", ("tokenizer.json", tokenizer.to_str()))])
    problem = server.post(f"/v1/models/{answer.json()['id']}/predict", json={"texts": ["a"]})
    assert_problem(problem, 422, says="`zebra`")


# Files.


def test_tables_folders_and_archives_are_the_same_texts(server, chapters):
    tokenizer = own.word_piece([text for text, _ in chapters])
    train, test = chapters[:200], chapters[200:260]
    lengths = sorted(len(tokenizer.encode(text).ids) for text, _ in train + test)
    classes = sorted({label for _, label in train + test})
    objects = lambda rows: [{"text": text, "label": label, "extra": None, "id": n} for n, (text, label) in enumerate(rows)]
    split_column = [(*row, "train") for row in train] + [(*row, "test") for row in test]
    parquet = lambda rows: models.parquet({"text": [row[0] for row in rows], "label": [row[1] for row in rows]})
    files = {f"{split}/{label}/{n}.txt": text.encode() for split, rows in (("train", train), ("test", test))
             for n, (text, label) in enumerate(rows)}
    uploads = {
        "csv": {"train.csv": own.as_csv(train), "test.csv": own.as_csv(test)},
        "one csv": {"all.csv": own.as_csv(split_column, ("text", "label", "split"))},
        "jsonl": {"train.jsonl": own.as_jsonl(objects(train)), "test.jsonl": own.as_jsonl(objects(test))},
        "parquet": {"data/train-00000-of-00001.parquet": parquet(train), "data/test-00000-of-00001.parquet": parquet(test)},
        "texts": files,
    }
    for name, content in uploads.items():
        zipped = {"all.zip": models.zip_of(with_tokenizer(tokenizer, **content))}
        for parts in (zipped, with_tokenizer(tokenizer, **content)) if name != "texts" else (zipped,):
            params = {} if len(parts) > 1 else {}
            found = upload(server, name, parts, **params)
            assert found["format"] == name.split()[-1] and found["splits"] == {"train": 200, "test": 60}
            [entry] = found["inputs"]
            assert (entry["name"], entry["media"], entry["dtype"], entry["shape"]) == ("text", "text", "string", [])
            assert entry["tokens"]["longest"] == lengths[-1] and entry["tokens"]["median"] == lengths[(len(lengths) - 1) // 2]
            assert found["target"]["class_names"] == classes and found["target"]["classes"] == len(classes)


def test_a_text_column_can_be_named_and_two_are_a_pair(server, documents):
    tokenizer = own.word_piece(documents)
    rows = [(n, a, b, n % 3) for n, (a, b) in enumerate(zip(documents[:60], documents[60:120]))]
    table = own.as_csv(rows, ("id", "premise", "hypothesis", "relation"))
    found = upload(server, "pairs", with_tokenizer(tokenizer, **{"nli.csv": table}), text="premise,hypothesis")
    assert found["inputs"][0]["name"] == "premise,hypothesis" and found["target"]["name"] == "relation"
    longest = max(len(tokenizer.encode(a, b).ids) for _, a, b, _ in rows)
    assert found["inputs"][0]["tokens"]["longest"] == longest
    one = upload(server, "one", with_tokenizer(tokenizer, **{"nli.csv": table}), text="hypothesis", target="relation")
    assert one["inputs"][0]["name"] == "hypothesis"
    assert_problem(post(server, "datasets", "x", {"nli.csv": table}, text="nothing"), 422, "invalid_dataset", says="`nothing`")
    assert_problem(post(server, "datasets", "x", {"nli.csv": table}, text="premise,hypothesis,id"), 422, says="two that belong")
    assert_problem(post(server, "datasets", "x", {"nli.csv": table}, text="premise"), 422, says="`target`")
    assert_problem(post(server, "datasets", "x", {"nli.csv": table}, text="premise", target="premise"), 422, says="both text and target")
    numbers = models.npz(x=np.zeros((4, 2), np.float32), y=np.zeros(4, np.int64))
    assert_problem(server.post_dataset(numbers, params={"text": "x"}), 422, says="`text`")


# Tasks.


@pytest.fixture(scope="module")
def classified(server, chapters):
    tokenizer = own.word_piece([text for text, _ in chapters])
    names = ["prose", "python", "rust"]
    rows = chapters
    cut = len(rows) * 4 // 5
    dataset = upload(server, "chapters", with_tokenizer(tokenizer, **{"train.csv": own.as_csv(rows[:cut]),
                                                                        "test.csv": own.as_csv(rows[cut:])}))
    torch.manual_seed(0)
    module = own.Encoder(tokenizer.get_vocab_size(), len(names))
    model = server.upload_model(own.exported(module, 24), "reader")
    return dict(dataset=dataset, tokenizer=tokenizer, names=names, test=rows[cut:], model=model)


@pytest.fixture(scope="module")
def reader(server, classified):
    return server.run("train", classified["model"], classified["dataset"], {
        "epochs": 6, "optimizer": {"name": "adamw", "learning_rate": 3e-3}}, data={"batch_size": 32})


def test_a_model_learns_to_tell_texts_apart(server, classified, reader):
    result = reader["result"]
    content = server.model_content(result["model"])
    ids, mask, _ = own.encoded(classified["tokenizer"], [text for text, _ in classified["test"]], 24)
    logits = graph_tools.session_of(content).run(None, {"input_ids": ids, "attention_mask": mask})[0]
    labels = [classified["names"].index(label) for _, label in classified["test"]]
    accuracy = (logits.argmax(1) == labels).mean()
    assert result["after"]["metrics"]["accuracy"] == pytest.approx(accuracy)
    commonest = max(labels.count(label) for label in set(labels)) / len(labels)
    assert accuracy > commonest + 0.15, (accuracy, commonest)
    about = result["environment"]["data"]
    assert [entry["tokens"]["part"] for entry in about["inputs"]] == ["ids", "mask"]
    assert about["inputs"][0]["tokens"]["length"] == 24 and about["class_names"] == classified["names"]
    longer = [len(classified["tokenizer"].encode(text).ids) > 24 for text, _ in own.sentences()]
    assert about["cut"] == sum(longer) > 0


def test_a_text_can_be_asked_about(server, classified, reader):
    model = {"id": reader["result"]["model"]}
    text, label = classified["test"][0]
    by_json = server.post(f"/v1/models/{model['id']}/predict", json={"texts": [text]}).json()
    plain = server.post(f"/v1/models/{model['id']}/predict", data=text.encode(), headers={"Content-Type": "text/plain"}).json()
    assert by_json == plain and plain["top"][0][0]["class"] in classified["names"]
    ids, mask, _ = own.encoded(classified["tokenizer"], [text], 24)
    logits = graph_tools.session_of(server.model_content(model["id"])).run(None, {"input_ids": ids, "attention_mask": mask})[0]
    np.testing.assert_allclose(plain["outputs"][0]["values"], logits, atol=1e-4)
    assert_problem(server.post(f"/v1/models/{model['id']}/predict", json={"texts": [" "]}), 422, says="no text")
    assert_problem(server.post(f"/v1/models/{model['id']}/predict", json={"texts": [3]}), 422)
    assert_problem(server.post(f"/v1/models/{model['id']}/predict", json={"texts": ["a"], "inputs": {}}), 422, says="one of")
    assert_problem(server.post(f"/v1/models/{model['id']}/predict", json={"texts": []}), 422, says="0 examples")
    asked = server.post(f"/v1/models/{model['id']}/predict", json={"examples": [0, 5]}).json()
    rows = dict(classified["test"])
    for example, target in zip(asked["examples"], asked["targets"], strict=True):
        assert rows[example["source"]] == target["class"]


def test_texts_are_pruned_and_distilled(server, classified, reader):
    teacher = reader["result"]["model"]
    pruned = server.run("prune", teacher, classified["dataset"], {
        "criterion": "taylor", "target": {"macs_ratio": 0.6}, "finetune": {"epochs": 2}}, data={"batch_size": 32})["result"]
    assert pruned["change"]["macs_ratio"] <= 0.6
    assert pruned["after"]["metrics"]["accuracy"] > reader["result"]["before"]["metrics"]["accuracy"] + 0.1
    student = server.run("distill", teacher, classified["dataset"], {
        "student": {"width": 0.5, "weights": "reinitialize"}, "control": True,
        "losses": [{"name": "soft_targets", "temperature": 2}, {"name": "cross_entropy"}],
        "finetune": {"epochs": 4, "augment": {"token_dropout": {"probability": 0.1, "token": 4}},
                     "optimizer": {"name": "adamw", "learning_rate": 3e-3}}}, data={"batch_size": 32})["result"]
    assert student["distill"]["agreement"]["top_1"] > 0.5
    ids, mask, _ = own.encoded(classified["tokenizer"], [text for text, _ in classified["test"]], 24)
    labels = np.array([classified["names"].index(label) for _, label in classified["test"]])
    for result in (pruned, student):
        logits = graph_tools.session_of(server.model_content(result["model"])).run(None, {"input_ids": ids, "attention_mask": mask})[0]
        assert (logits.argmax(1) == labels).mean() == pytest.approx(result["after"]["metrics"]["accuracy"])


def test_the_steps_of_a_training_on_texts_are_pytorchs(server, classified):
    tokenizer, names = classified["tokenizer"], classified["names"]
    rows = classified["test"][:64]
    dataset = upload(server, "few", with_tokenizer(tokenizer, **{"train.csv": own.as_csv(rows), "test.csv": own.as_csv(rows)}))
    torch.manual_seed(1)
    module = own.Encoder(tokenizer.get_vocab_size(), len(dataset["target"]["class_names"]))
    job = server.run("train", server.upload_model(own.exported(module, 24), "fresh"), dataset, {
        "epochs": 3, "optimizer": {"name": "sgd", "learning_rate": 0.1, "momentum": 0, "weight_decay": 0},
        "schedule": {"name": "constant", "warmup_fraction": 0}}, data={"batch_size": 64, "validation_fraction": 0})
    ids, mask, _ = map(torch.from_numpy, own.encoded(tokenizer, [text for text, _ in rows], 24))
    labels = torch.tensor([dataset["target"]["class_names"].index(label) for _, label in rows])
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(ids, mask), labels).backward()
        optimizer.step()
    found = graph_tools.session_of(server.model_content(job["result"]["model"])).run(
        None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
    np.testing.assert_allclose(found, module(ids, mask).detach().numpy(), atol=2e-4)


def language_model_loss(logits, ids, mask):
    """Mean cross-entropy of each next token, and how often it is the likeliest."""
    logits, ids, mask = (torch.as_tensor(value) for value in (logits, ids, mask))
    kept = (mask[:, 1:] * mask[:, :-1]).bool()
    own_logits, wanted = logits[:, :-1][kept], ids[:, 1:][kept]
    return torch.nn.functional.cross_entropy(own_logits, wanted), (own_logits.argmax(1) == wanted).double().mean()


@pytest.mark.parametrize("as_arrays", [False, True], ids=["texts", "arrays"])
def test_language_models_say_the_next_token(server, documents, as_arrays):
    tokenizer = own.byte_pairs(documents, 300)
    lines = [" ".join(text.split())[:60] for text in documents][:500]
    train, test = lines[:400], lines[400:]
    parts = {split: own.encoded(tokenizer, rows, 32) for split, rows in (("train", train), ("test", test))}
    if as_arrays:
        dataset = server.upload_dataset(models.npz(**{f"{name}_{split}": values for split, both in parts.items()
                                                      for name, values in zip(("input_ids", "attention_mask"), both)}), "ids")
    else:
        dataset = upload(server, "lines", with_tokenizer(tokenizer, **{
            "train.jsonl": own.as_jsonl([{"text": row} for row in train]), "test.jsonl": own.as_jsonl([{"text": row} for row in test])}))
        assert dataset["target"] is None
    torch.manual_seed(2)
    module = own.Encoder(300, 300, of_tokens=True, causal=True)
    model = server.upload_model(own.exported(module, 32), "speaker")
    told = {"task": "language_modeling"} if as_arrays else {}
    step = server.run("train", model, dataset, {
        "epochs": 2, "optimizer": {"name": "sgd", "learning_rate": 0.5, "momentum": 0, "weight_decay": 0}, "label_smoothing": 0.1,
        "schedule": {"name": "constant", "warmup_fraction": 0}}, data={"batch_size": 400, "validation_fraction": 0}, **told)["result"]
    assert step["environment"]["data"]["task"] == "language_modeling"
    ids, mask, _ = (torch.from_numpy(value) for value in parts["test"])
    with torch.no_grad():
        loss, accuracy = language_model_loss(module(ids, mask), ids, mask)
    before = step["before"]["metrics"]
    assert before["loss"] == pytest.approx(float(loss), rel=1e-4) and before["perplexity"] == pytest.approx(float(loss.exp()), rel=1e-3)
    assert before["accuracy"] == pytest.approx(float(accuracy), abs=2e-3)
    x, m, _ = (torch.from_numpy(value) for value in parts["train"])
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        kept = (m[:, 1:] * m[:, :-1]).bool()
        torch.nn.functional.cross_entropy(module(x, m)[:, :-1][kept], x[:, 1:][kept], label_smoothing=0.1).backward()
        optimizer.step()
    content = server.model_content(step["model"])
    found = graph_tools.session_of(content).run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(found, module(ids, mask).numpy(), atol=5e-4)
    if as_arrays:
        return
    # It learns, a smaller one learns of it, and pruning keeps the most of it.
    tuning = {"epochs": 6, "optimizer": {"name": "adamw", "learning_rate": 3e-3}}
    taught = server.run("train", model, dataset, tuning, data={"batch_size": 32})["result"]
    assert taught["after"]["metrics"]["perplexity"] < 0.5 * before["perplexity"]
    student = server.run("distill", taught["model"], dataset, {
        "student": {"width": 0.5}, "losses": [{"name": "soft_targets", "temperature": 2}, {"name": "cross_entropy", "weight": 0.5}],
        "finetune": {**tuning, "epochs": 2}}, data={"batch_size": 32})["result"]
    session = graph_tools.session_of(server.model_content(student["model"]))
    logits = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
    loss, accuracy = language_model_loss(logits, ids, mask)
    assert student["after"]["metrics"]["loss"] == pytest.approx(float(loss), rel=1e-4)
    teacher = graph_tools.session_of(server.model_content(taught["model"])).run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
    same = (logits.argmax(2) == teacher.argmax(2))[parts["test"][1].astype(bool)].mean()
    assert student["distill"]["agreement"]["top_1"] == pytest.approx(same, abs=5e-3)


def tagged():
    """Words with what they are: the first of a sentence, a word with a capital inside, a number, another one."""
    rows = []
    for sentence in own.documentation():
        words = sentence.split()[:14]
        kinds = ["NUMBER" if any(c.isdigit() for c in word) else "CODE" if "`" in word or "_" in word else
                 "NAME" if word[:1].isupper() else "WORD" for word in words]
        rows.append((words, kinds))
    return rows[:400]


def test_tokens_are_classified_by_the_words_that_they_begin(server, documents):
    rows = tagged()
    tokenizer = own.word_piece(documents, lowercase=False)
    classes = ["CODE", "NAME", "NUMBER", "WORD"]
    train, test = rows[:320], rows[320:]
    objects = lambda part: own.as_jsonl([{"tokens": words, "ner_tags": kinds} for words, kinds in part])
    dataset = upload(server, "words", with_tokenizer(tokenizer, **{"train.jsonl": objects(train), "test.jsonl": objects(test)}))
    assert dataset["target"]["class_names"] == classes and dataset["target"]["shape"] == [0] and dataset["target"]["classes"] == 4
    torch.manual_seed(3)
    module = own.Encoder(tokenizer.get_vocab_size(), 4, of_tokens=True)
    model = server.upload_model(own.exported(module, 32), "tagger")
    result = server.run("train", model, dataset, {"epochs": 5, "optimizer": {"name": "adamw", "learning_rate": 4e-3}},
                        data={"batch_size": 16})["result"]
    assert result["environment"]["data"]["task"] == "token_classification"
    content = server.model_content(result["model"])
    ids, mask, _ = own.encoded(tokenizer, [words for words, _ in test], 32, is_words=True)
    logits = graph_tools.session_of(content).run(None, {"input_ids": ids, "attention_mask": mask})[0]
    told, right = 0, 0
    counted = {name: [0, 0, 0] for name in classes}
    tokenizer.enable_truncation(32)
    for row, (words, kinds) in enumerate(test):
        seen = None
        for place, word in enumerate(tokenizer.encode(words, is_pretokenized=True).word_ids):
            if word is not None and word != seen:
                guess = classes[logits[row, place].argmax()]
                told, right = told + 1, right + (guess == kinds[word])
                for name in classes:
                    counted[name][0] += guess == name == kinds[word]
                    counted[name][1] += (guess == name) != (kinds[word] == name)
            seen = word
    assert result["after"]["metrics"]["accuracy"] == pytest.approx(right / told) and right / told > 0.9
    metrics = ["loss", "accuracy", "f1", "balanced_accuracy", "top_2_accuracy"]
    evaluated = server.run("evaluate", {"id": result["model"]}, dataset, {"metrics": metrics})["result"]
    f1 = np.mean([2 * hits / (2 * hits + wrong) for hits, wrong, _ in counted.values() if hits + wrong])
    assert evaluated["before"]["metrics"]["f1"] == pytest.approx(f1)
    # The same labels as an array: −100 where a token has none.
    labels = np.full((len(test), 32), -100, np.int64)
    for row, (words, kinds) in enumerate(test):
        seen = None
        for place, word in enumerate(tokenizer.encode(words, is_pretokenized=True).word_ids):
            if word is not None and word != seen:
                labels[row, place] = classes.index(kinds[word])
            seen = word
    arrays = server.upload_dataset(models.npz(input_ids=ids, attention_mask=mask, y=labels, input_ids_test=ids,
                                              attention_mask_test=mask, y_test=labels), "aligned")
    same = server.run("evaluate", {"id": result["model"]}, arrays, {"metrics": metrics}, task="token_classification")["result"]
    assert same["before"]["metrics"] == pytest.approx(evaluated["before"]["metrics"])
    pruned = server.run("prune", {"id": result["model"]}, dataset, {
        "criterion": "taylor", "target": {"macs_ratio": 0.7}, "finetune": {"epochs": 2}}, data={"batch_size": 16})["result"]
    assert pruned["after"]["metrics"]["accuracy"] > 0.85


def test_a_model_carries_its_tokenizer_to_what_is_made_of_it(server, classified, reader):
    rows = classified["test"][:80]
    other = own.characters(own.FIRST_LETTERS)
    content = server.model_content(reader["result"]["model"])
    model = upload(server, "own", {"m.onnx": content, "tokenizer.json": classified["tokenizer"].to_str().encode()}, "models")
    assert model["summary"]["tokenizer"] == classified["dataset"]["inputs"][0]["tokens"]["tokenizer"]
    plain = upload(server, "plain", {"train.csv": own.as_csv(rows), "test.csv": own.as_csv(rows)})
    assert "tokens" not in plain["inputs"][0]
    strange = upload(server, "strange", with_tokenizer(other, **{"train.csv": own.as_csv(rows), "test.csv": own.as_csv(rows)}))
    figures = [server.run("evaluate", model, dataset)["result"]["before"]["metrics"] for dataset in (plain, strange)]
    assert figures[0] == figures[1]
    ids, mask, _ = own.encoded(classified["tokenizer"], [text for text, _ in rows], 24)
    logits = graph_tools.session_of(content).run(None, {"input_ids": ids, "attention_mask": mask})[0]
    labels = [plain["target"]["class_names"].index(label) for _, label in rows]
    assert figures[0]["accuracy"] == pytest.approx((logits.argmax(1) == labels).mean())
    pruned = server.run("prune", model, plain, {"criterion": "magnitude", "target": {"macs_ratio": 0.8}, "finetune": None})["result"]
    made = server.get(f"/v1/models/{pruned['model']}").json()
    assert made["summary"]["tokenizer"] == model["summary"]["tokenizer"]
    assert server.post(f"/v1/models/{pruned['model']}/predict", json={"texts": ["how layers are pruned"]}).status_code == 200
    # Without one there is nothing to read by.
    bare = server.upload_model(own.exported(own.Encoder(50, 4), 24), "bare")
    answer = server.post("/v1/jobs", json={"kind": "evaluate", "model": bare["id"], "dataset": plain["id"]})
    assert_problem(answer, 422, "data_misfit", says="tokenizer.json")
    assert_problem(server.post(f"/v1/models/{bare['id']}/predict", json={"texts": ["a"]}), 422, says="tokenizer.json")
    asked = server.post(f"/v1/models/{bare['id']}/predict", json={"texts": ["abc"]}, params={"dataset": strange["id"]})
    assert asked.status_code == 200, asked.text


def test_texts_are_as_long_as_the_longest_by_the_models_tokenizer(server, documents):
    tokenizer = own.word_piece(documents)
    tokenizer.enable_truncation(60)
    rows = [(text[:20 + n % 20], n % 2) for n, text in enumerate(documents[:60])]
    content = own.exported(own.Encoder(tokenizer.get_vocab_size(), 2), 16, open_length=True)
    model = upload(server, "open", {"m.onnx": content, "tokenizer.json": tokenizer.to_str().encode()}, "models")
    data = upload(server, "rows", {"train.csv": own.as_csv(rows), "test.csv": own.as_csv(rows[:30])})
    tokenizer.no_truncation()
    longest = max(len(tokenizer.encode(text).ids) for text, _ in rows)
    result = server.run("evaluate", model, data)["result"]
    about = result["environment"]["data"]
    assert about["inputs"][0]["shape"] == [longest] and "cut" not in about
    assert "texts_cut" not in [one["type"] for one in result.get("warnings", [])]
    assert about["prepared"][0] == f"`input_ids` gets tokens of `text`: {longest} of each text, longer ones cut, shorter ones filled up behind"
    cut = server.run("evaluate", model, data, data={"preprocess": {"max_length": 4}})
    assert cut["result"]["environment"]["data"]["cut"] == 90
    [told] = [one["message"] for one in cut["result"]["warnings"] if one["type"] == "texts_cut"]
    assert "90 of 90 texts" in told
    assert "<td>Cut</td>" in server.artifact(cut, "report.html").decode()
    # The model has places for 64 tokens, which shows when they are computed.
    for length in (65, 200):
        body = {"kind": "evaluate", "model": model["id"], "dataset": data["id"], "data": {"preprocess": {"max_length": length}}}
        assert_problem(server.post("/v1/jobs", json=body), 422, "data_misfit", pointer="/data/preprocess/max_length", says=["64", str(length)])
    ids = {"inputs": {"input_ids": [[5000] * 4], "attention_mask": [[1] * 4]}}
    assert_problem(server.post(f"/v1/models/{model['id']}/predict", json=ids), 422, "index_out_of_range", says="vocabulary")


# What is refused, and what is left out.


def test_texts_that_can_not_be_used_are_refused_or_left_out(server, documents):
    tokenizer = own.word_piece(documents)
    rows = [(text, n % 2) for n, text in enumerate(documents[:40])]
    rows[5], rows[11], rows[17] = ("", 0), ("   ", 1), ("long " * 200_000, 0)
    for kind, content in (("csv", own.as_csv(rows)), ("jsonl", own.as_jsonl([{"text": text, "label": n} for text, n in rows]))):
        files = with_tokenizer(tokenizer, **{f"all.{kind}": content})
        problem = assert_problem(post(server, "datasets", "bad", files), 422, "invalid_dataset", says=f"all.{kind}:")
        assert "3 of the examples" in problem["detail"] and "damaged=skip" in problem["detail"]
        found = upload(server, "good", files, damaged="skip")
        assert found["splits"]["train"] == 37 and len(found["skipped"]) == 3
        assert any("1000000 bytes" in entry["detail"] or "999999 bytes" in entry["detail"] for entry in found["skipped"])
        model = server.upload_model(own.exported(own.Encoder(tokenizer.get_vocab_size(), 2), 16), "m")
        result = server.run("evaluate", model, found)["result"]
        assert result["environment"]["data"]["skipped"] == 3
    files = models.zip_of({"a/1.txt": b"good", "a/2.txt": b"\xff\xfe\xfd", "b/3.txt": b"", "b/4.txt": b"x" * 300_000, "b/5.txt": b"fine"})
    assert_problem(server.post_dataset(files), 422, "invalid_dataset", says="3 of the examples")
    found = server.upload_dataset(files, params={"damaged": "skip"})
    assert found["splits"]["train"] == 2 and {entry["name"] for entry in found["skipped"]} == {"a/2.txt", "b/3.txt", "b/4.txt"}


@pytest.mark.parametrize("content, says", [
    (b"{}", "tokenizer"), (b'{"model": 3}', "tokenizer"), (b"\xff\xfe", "tokenizer"),
])
def test_a_broken_tokenizer_is_refused(server, content, says):
    table = own.as_csv([("a text", 0), ("another", 1)])
    assert_problem(post(server, "datasets", "x", {"a.csv": table, "tokenizer.json": content}), 422, "invalid_dataset", says=says)
    answer = post(server, "models", "x", {"m.onnx": mirror(), "tokenizer.json": content})
    assert_problem(answer, 422, "invalid_model", says="tokenizer.json")


def test_what_does_not_fit_is_told(server, documents, classified):
    tokenizer = own.word_piece(documents)
    words = [{"tokens": ["a", "b"], "labels": ["x"]}]
    files = with_tokenizer(tokenizer, **{"w.jsonl": own.as_jsonl(words)})
    assert_problem(post(server, "datasets", "x", files), 422, "invalid_dataset", says="2 words and 1 labels")
    files = {"a.csv": own.as_csv([("x", 0)]), "b.jsonl": own.as_jsonl([{"text": "x", "label": 0}])}
    assert_problem(post(server, "datasets", "x", files), 422, "invalid_dataset", says="several formats")
    files = {"train.csv": own.as_csv([("x", 0)]), "test.csv": own.as_csv([("x", 0)], ("text", "other"))}
    assert_problem(post(server, "datasets", "x", files), 422, "invalid_dataset", says="test.csv")
    files = {"a.jsonl": b'{"text": "x", "label": 0}\n{"text": '}
    assert_problem(post(server, "datasets", "x", files), 422, "invalid_dataset", says="line 2")
    dataset, model = classified["dataset"]["id"], classified["model"]["id"]

    def refused(says, pointer=None, **body):
        answer = server.post("/v1/jobs", json={"kind": "evaluate", "model": model, "dataset": dataset, **body})
        return assert_problem(answer, 422, says=says)

    refused("24 tokens", data={"preprocess": {"max_length": 30}})
    refused("max_length", data={"preprocess": {"max_length": 0}})
    refused("holds texts", data={"preprocess": {"scale": 2}})
    refused("holds texts", data={"preprocess": {"resize": 2}})
    refused("[batch, tokens, classes]", task="language_modeling")
    numbers = server.upload_dataset(models.npz(input_ids=np.ones((9, 24), np.int64), attention_mask=np.ones((9, 24), np.int64),
                                               y=np.zeros(9, np.int64)), "numbers")
    refused("max_length is for texts", dataset=numbers["id"], data={"preprocess": {"max_length": 24}})
    flat = server.upload_model(own.exported(own.Encoder(40, 40, of_tokens=True), 24), "small")
    refused("has 40 for the next one", model=flat["id"], task="language_modeling")
    answer = server.post("/v1/jobs", json={"kind": "train", "model": model, "dataset": dataset, "params": {
        "epochs": 1, "augment": {"mixup": {"alpha": 1}}}})
    assert_problem(answer, 422, says="can't be blended")
    far = server.upload_dataset(models.npz(input_ids=np.full((9, 24), 77, np.int64), attention_mask=np.ones((9, 24), np.int64)), "far")
    job = server.wait(server.submit("evaluate", flat, far, task="language_modeling"))
    assert job["status"] == "failed" and "77" in job["error"]["detail"], job["error"]


def test_the_name_of_an_only_table_says_nothing(server):
    for name in ("test", "dev-flowers", "valid"):
        assert server.upload_dataset(b"a,b,y\n1,2,0\n3,4,1\n", name)["splits"] == {"train": 2, "test": 0}
    assert upload(server, "x", {"test.csv": own.as_csv([("a", 0), ("b", 1)])})["splits"]["train"] == 2


@pytest.mark.parametrize("rows, says", [
    ([{"tokens": ["a", "b"], "tags": [0, 1]}, {"tokens": "a b", "tags": [0, 1]}], "line 2 differs"),
    ([{"text": "a"}, {"text": "b", "label": 1}], "line 2 has `label`"),
    ([{"tokens": ["a", None, "b"], "tags": [0, 1, 0]}], "null in a list"),
    ([{"text": "a", "label": 1}, {"text": "b"}], "`all.jsonl:2` can't be used: its column `label`"),
    ([{"tokens": ["a"] * 70_000, "tags": [0] * 70_000}], "70000 words"),
    ([{"tokens": ["a"], "tags": ["x"]}, {"tokens": ["b"], "tags": "x"}], "no list of labels"),
])
def test_rows_that_do_not_belong_together_are_refused(server, rows, says):
    assert_problem(post(server, "datasets", "x", {"all.jsonl": own.as_jsonl(rows)}), 422, "invalid_dataset", says=says)


def test_targets_of_tokens_must_suit_the_tokens(server, documents):
    rows = tagged()[:80]
    tokenizer = own.word_piece(documents, lowercase=False)
    words = upload(server, "words", with_tokenizer(tokenizer, **{"all.jsonl": own.as_jsonl(
        [{"tokens": part, "ner_tags": kinds} for part, kinds in rows])}))
    whole = server.upload_model(own.exported(own.Encoder(tokenizer.get_vocab_size(), 4), 32), "whole")
    each = server.upload_model(own.exported(own.Encoder(tokenizer.get_vocab_size(), 4, of_tokens=True), 32), "each")

    def refused(model, dataset, says, kind="evaluate", params=None, **more):
        answer = server.post("/v1/jobs", json={"kind": kind, "model": model["id"], "dataset": dataset["id"], "params": params or {}, **more})
        if answer.status_code == 422:
            return assert_problem(answer, 422, says=says)
        job = server.wait(answer.json())
        assert job["status"] == "failed" and says in job["error"]["detail"], job["error"]

    refused(whole, words, "one integer label", task="classification")
    ids = np.ones((30, 32), np.int64)
    short = server.upload_dataset(models.npz(input_ids=ids, attention_mask=ids, y=np.zeros((30, 8), np.int64)), "short")
    refused(each, short, "32 tokens", task="token_classification")
    high = server.upload_dataset(models.npz(input_ids=ids, attention_mask=ids, y=np.full((30, 32), 7, np.int64)), "high")
    refused(each, high, "labels go up to 7", task="token_classification")
    for augment in ({"crop": {"padding": 2}}, {"flip": "horizontal"}, {"noise": {"std": 1}}, {"mixup": {"alpha": 1}}):
        refused(each, words, "token", kind="train", params={"epochs": 1, "augment": augment})
    floats = server.upload_dataset(models.npz(input_ids=ids.astype(np.float32), attention_mask=ids), "floats")
    refused(each, floats, "is given tokens", task="language_modeling")


def test_tokenizers_that_draw_lots_or_do_not_know_a_word_are_told(server, documents):
    lots = json.loads(own.byte_pairs(documents).to_str())
    lots["model"]["dropout"] = 0.1
    table = own.as_csv([("a text", 0), ("another", 1)] * 10)
    files = {"a.csv": table, "tokenizer.json": json.dumps(lots).encode()}
    assert_problem(post(server, "datasets", "x", files), 422, "invalid_dataset", says="dropout")
    from tokenizers import Tokenizer, models as kinds, pre_tokenizers

    strict = Tokenizer(kinds.WordLevel({"a": 0, "text": 1}, unk_token="[UNK]"))
    strict.pre_tokenizer = pre_tokenizers.Whitespace()
    model = upload(server, "strict", {"m.onnx": own.exported(own.Encoder(2, 2), 8), "tokenizer.json": strict.to_str().encode()}, "models")
    job = server.wait(server.submit("evaluate", model, upload(server, "plain", {"a.csv": table})))
    assert job["status"] == "failed" and "tokenizer" in job["error"]["detail"], job["error"]
    assert job["error"]["code"] == "data_misfit"


def test_a_test_split_that_is_sorted_is_mixed(server, classified):
    rows = sorted(classified["test"], key=lambda row: row[1])
    dataset = upload(server, "sorted", with_tokenizer(classified["tokenizer"], **{"train.csv": own.as_csv(rows), "test.csv": own.as_csv(rows)}))
    quality = server.run("evaluate", classified["model"], dataset, data={"limit": 40})["result"]["before"]["quality"]
    assert sum(sum(row) > 0 for row in quality["confusion"]) == 3


def test_a_job_on_texts_resumes_with_the_same_bytes(tmp_path, classified):
    from conftest import Server

    rows = classified["test"]
    files = with_tokenizer(classified["tokenizer"], **{"train.csv": own.as_csv(rows), "test.csv": own.as_csv(rows)})
    torch.manual_seed(0)
    content = own.exported(own.Encoder(classified["tokenizer"].get_vocab_size(), 3), 24)
    params = {"epochs": 150, "augment": {"token_dropout": {"probability": 0.2, "token": 4}}}
    results = []
    for name, env in (("whole", {}), ("parts", {"SINTER_CHECKPOINT_SECONDS": "0"})):
        with Server(tmp_path / name, env=env) as server:
            job = server.submit("train", server.upload_model(content), upload(server, "texts", files), params)
            if name == "parts":
                seen = server.wait_for(job, lambda seen: ((seen["progress"] or {}).get("epoch") or 0) > 2 or seen["status"] in END_STATES, 240)
                assert seen["status"] not in END_STATES
                server.restart()
            job = server.wait(job)
            results.append(server.model_content(job["result"]["model"]))
    assert results[0] == results[1]


def test_a_student_without_a_tokenizer_reads_by_its_teachers(server, documents):
    torch.manual_seed(0)
    tokenizer = own.word_piece(documents)
    rows = [(text, "long" if len(text) > 60 else "short") for text in documents[:300]]
    dataset = upload(server, "lengths", {"texts.csv": own.as_csv(rows)})
    network = lambda width: own.exported(own.Encoder(tokenizer.get_vocab_size(), 2, width=width, longest=40), 12, open_length=True)
    # A tokenizer may be called as one likes.
    teacher = upload(server, "teacher", {"m.onnx": network(32), "my_tok.json": tokenizer.to_str().encode()}, "models")
    assert teacher["summary"]["tokenizer"]["vocabulary"] == tokenizer.get_vocab_size()
    student = upload(server, "student", {"m.onnx": network(16)}, "models")
    job = server.run("distill", teacher, dataset, {"student": {"model": student["id"]}, "finetune": {"epochs": 1}})["result"]
    [ids, *_] = job["environment"]["data"]["inputs"]
    # The longest text has more tokens than the model has places for.
    lengths = [len(one.ids) for one in tokenizer.encode_batch([text for text, _ in rows])]
    assert max(lengths) > 40 and ids["tokens"]["length"] == 40 and job["environment"]["data"]["cut"] == sum(length > 40 for length in lengths)
    made = server.get(f"/v1/models/{job['model']}").json()
    assert made["summary"]["tokenizer"]["digest"] == teacher["summary"]["tokenizer"]["digest"]
    answer = server.post(f"/v1/models/{made['id']}/predict", json={"texts": [rows[0][0]]})
    assert answer.status_code == 200 and answer.json()["top"][0][0]["class"] in ("long", "short")
    # The card says how texts become tokens outside.
    import io as bytes_io
    import tarfile

    bundle = tarfile.open(fileobj=bytes_io.BytesIO(server.artifact({"id": made["job_id"]}, "bundle.tar")))
    card = bundle.extractfile("README.md").read().decode()
    code = card.split("```python\n")[1].split("```")[0].replace('"model.onnx"', "content")
    space = {"content": server.model_content(made["id"])}
    exec(code, space)
    assert space["encoded"].ids == own.encoded(tokenizer, ["A text."], 40)[0][0].tolist()


def test_other_files_of_a_tokenizer_lie_beside_it(server, documents):
    tokenizer = own.word_piece(documents)
    table = own.as_csv([(text, "a" if index % 2 else "b") for index, text in enumerate(documents[:40])])
    beside = {"tokenizer_config.json": b"{}", "special_tokens_map.json": b"{}"}
    whole = server.upload_dataset(models.zip_of({"train.csv": table, "tokenizer.json": tokenizer.to_str().encode(), **beside}), "folder")
    assert whole["inputs"][0]["tokens"]["tokenizer"]["vocabulary"] == tokenizer.get_vocab_size()
    without = server.upload_dataset(models.zip_of({"train.csv": table, "dataset_info.json": b"{}"}), "info")
    assert "tokens" not in without["inputs"][0]
    answer = post(server, "models", "config", {"m.onnx": mirror(("input_ids",)), "config.json": b"{}"})
    assert_problem(answer, 422, says="`config.json`")


def test_a_student_has_places_of_its_own(server, documents):
    torch.manual_seed(0)
    tokenizer = own.characters(documents)
    rows = [(text[:100], "a" if index % 2 else "b") for index, text in enumerate(documents[:200])]
    dataset = upload(server, "characters", {"texts.csv": own.as_csv(rows)})

    def network(name, longest):
        content = own.exported(own.Encoder(tokenizer.get_vocab_size(), 2, width=16, layers=1, longest=longest), 12, open_length=True)
        return upload(server, name, {"m.onnx": content, "tokenizer.json": tokenizer.to_str().encode()}, "models")

    job = server.run("distill", network("teacher of 64", 64), dataset,
                     {"student": {"model": network("student of 32", 32)["id"]}, "finetune": {"epochs": 1}})["result"]
    data = job["environment"]["data"]
    assert data["inputs"][0]["tokens"]["length"] == 32
    # What is cut is counted of a tokenizer that adds nothing, too.
    assert data["cut"] == sum(len(tokenizer.encode(text).ids) > 32 for text, _ in rows) > 0
    assert "texts_cut" in [warning["type"] for warning in job["warnings"]]


def test_what_says_the_next_token_is_no_classifier_of_texts(server, documents):
    torch.manual_seed(0)
    tokenizer = own.word_piece(documents)
    causal = own.Encoder(tokenizer.get_vocab_size(), tokenizer.get_vocab_size(), of_tokens=True, causal=True)
    model = upload(server, "causal", {"m.onnx": own.exported(causal, 12, open_length=True), "tokenizer.json": tokenizer.to_str().encode()}, "models")
    dataset = upload(server, "labelled", {"texts.csv": own.as_csv([(text, "a" if index % 2 else "b") for index, text in enumerate(documents[:60])])})
    body = {"kind": "evaluate", "model": model["id"], "dataset": dataset["id"]}
    assert_problem(server.post("/v1/jobs", json=body), 422, pointer="/task", says="language_modeling")
    assert_problem(server.post("/v1/jobs", json={**body, "task": "classification"}), 422, pointer="/task", says="language_modeling")
    found = server.run("evaluate", model, dataset, task="language_modeling", data={"preprocess": {"max_length": 12}})["result"]
    assert found["before"]["metrics"]["perplexity"] > 1
    # Which token comes next behind each of two texts, one of them filled up.
    texts = [documents[0][:20], "a"]
    said = server.post(f"/v1/models/{model['id']}/predict", json={"texts": texts}).json()
    logits = np.array(said["outputs"][0]["values"])
    for row, (text, top) in enumerate(zip(texts, said["top"], strict=True)):
        last = min(len(tokenizer.encode(text).ids), logits.shape[1]) - 1
        best = int(logits[row, last].argmax())
        assert (top[0]["label"], top[0]["class"]) == (best, tokenizer.id_to_token(best))


def test_questions_of_numbers_that_do_not_fit_together(server, documents):
    tokenizer = own.word_piece(documents)
    model = upload(server, "mirror", {"m.onnx": mirror(("input_ids", "attention_mask")), "tokenizer.json": tokenizer.to_str().encode()}, "models")
    ask = lambda **inputs: server.post(f"/v1/models/{model['id']}/predict", json={"inputs": inputs})
    assert_problem(ask(input_ids=[[2, 5, 6]], attention_mask=[[1, 1]]), 422, pointer="/inputs/attention_mask", says="the axis `tokens`")
    assert_problem(ask(input_ids=[[2, 5.5, 6]], attention_mask=[[1, 1, 1]]), 422, pointer="/inputs/input_ids", says="5.5")
