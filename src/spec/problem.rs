//! RFC 9457 problem details, the form of every error that a user sees.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// One fault in a request body: where it is and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// RFC 6901 JSON pointer into the request body, for instance `/params/target/sparsity`.
    pub pointer: String,
    /// What is wrong there, and what would be right.
    pub detail: String,
    /// What rule was broken.
    #[serde(skip)]
    rule: Rule,
}

/// A rule that something in a request breaks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Rule {
    /// Pointer of the object whose fields it compares; `None` if it is about its one field alone.
    among: Option<String>,
    /// Whether it is that the contract names something which this version does not do.
    not_supported: bool,
}

impl FieldError {
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            pointer: pointer.into(),
            detail: detail.into(),
            rule: Rule::default(),
        }
    }

    /// The same fault seen from an enclosing object: `prefix` goes in front of the pointer.
    pub fn under(mut self, prefix: &str) -> Self {
        self.pointer.insert_str(0, prefix);
        if let Some(among) = &mut self.rule.among {
            among.insert_str(0, prefix);
        }
        self
    }
}

/// RFC 9457 problem details (`application/problem+json`).
///
/// `status` is the HTTP status; in `job.error`, where no HTTP answer was due when the fault
/// happened, it is the status that the same fault would have had at submission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Problem {
    /// A URI reference that names the kind of problem: `/docs/problems#CODE`.
    #[serde(rename = "type")]
    pub type_uri: String,
    pub title: String,
    pub status: u16,
    /// What happened and what to do about it, for a person.
    pub detail: String,
    /// The path of the request, or of the job.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance: String,
    /// A stable snake_case word for programs.
    pub code: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

impl Problem {
    /// A problem with this status, code (snake_case) and detail; the title is the code in words.
    pub fn new(status: u16, code: &str, detail: impl Into<String>) -> Self {
        let mut title = code.replace('_', " ");
        if let Some(first) = title.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        Self {
            type_uri: format!("/docs/problems#{code}"),
            title,
            status,
            detail: detail.into(),
            instance: String::new(),
            code: code.to_owned(),
            request_id: None,
            errors: Vec::new(),
        }
    }

    /// 422 for a body that parses but can't be accepted.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = errors
            .iter()
            .map(|error| match error.pointer.as_str() {
                "" => error.detail.clone(),
                pointer => format!("{pointer}: {}", error.detail),
            })
            .collect::<Vec<_>>()
            .join("; ");
        let mut problem = Self::new(422, "invalid_request", detail);
        problem.errors = errors;
        problem
    }

    /// The same for faults of what lies at `prefix` in the body.
    pub fn invalid_under(prefix: &str, errors: Vec<FieldError>) -> Self {
        Self::invalid(
            errors
                .into_iter()
                .map(|fault| fault.under(prefix))
                .collect(),
        )
    }

    /// The same problem under another code; kind and title follow.
    pub fn with_code(self, code: &str) -> Self {
        let named = Self::new(self.status, code, self.detail);
        Self {
            instance: self.instance,
            request_id: self.request_id,
            errors: self.errors,
            ..named
        }
    }

    /// Several problems of one request in one, of the kind of the first.
    pub fn together(problems: Vec<Self>) -> Option<Self> {
        let several = problems.len() > 1;
        let mut problems = problems.into_iter();
        let mut first = problems.next()?;
        first.errors.extend(problems.flat_map(|other| other.errors));
        if several {
            first.detail = Self::invalid(first.errors.clone()).detail;
        }
        Some(first)
    }

    /// 422 for something that the contract names and this version does not do yet.
    pub fn not_supported(pointer: &str, what: &str) -> Self {
        let mut problem = Self::new(422, "not_supported", format!("{what} is not supported yet"));
        problem.errors = vec![FieldError::new(pointer, problem.detail.clone())];
        problem
    }
}

/// Faults that are looked for in one body.
const MOST_FAULTS: usize = 20;

/// What could be read of a value.
#[derive(Debug)]
pub struct Reading<T> {
    /// Without the fields that are wrong; `None` where nothing is left that could be a `T`.
    pub value: Option<T>,
    /// What is wrong, with the JSON pointers of the fields that it is in.
    pub faults: Vec<FieldError>,
    /// What was not read: the fields that are wrong and, where these say what an object is, those objects.
    unread: Vec<String>,
}

impl<T> Reading<T> {
    /// The value, where all of it could be read.
    pub fn complete(self) -> Result<T, Vec<FieldError>> {
        match self.value {
            Some(value) if self.faults.is_empty() => Ok(value),
            _ => Err(self.faults),
        }
    }

    /// The same, where what is at `pointer` stands for something that could not be read.
    pub fn guessed(mut self, pointer: &str) -> Self {
        self.unread.push(pointer.to_owned());
        self
    }

    /// The same, where fields that these faults are about had been taken out of the value before.
    pub fn without(mut self, faults: Vec<FieldError>) -> Self {
        let fields = faults.iter().map(|fault| fault.pointer.clone());
        self.unread.extend(fields);
        self.with(faults)
    }

    /// Adds faults of fields that could be taken for something all the same.
    pub fn with(mut self, faults: Vec<FieldError>) -> Self {
        self.faults.extend(faults);
        self
    }

    /// Adds what `check` has to say of the value. A rule is left out where what it is about was not read: that may break it.
    pub fn checked(self, check: impl FnOnce(&T) -> Faults) -> (Option<T>, Faults) {
        let within = |one: &str, other: &str| {
            one.strip_prefix(other)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let mut faults = Faults { found: self.faults };
        if let Some(value) = &self.value {
            let read = check(value).found.into_iter().filter(|fault| {
                let compared = fault.rule.among.as_deref();
                self.unread.iter().all(|field| {
                    !within(&fault.pointer, field)
                        && !within(field, compared.unwrap_or(&fault.pointer))
                })
            });
            faults.found.extend(read);
        }
        (self.value, faults)
    }
}

/// Reads `value` as a `T`, as far as that goes.
///
/// serde would take a list for an object (fields in their order) and an object for a word; both
/// are refused, since nobody means them. It stops at the first fault: the others are found by reading on without
/// the fields that are known to be wrong.
pub fn read<T: DeserializeOwned + Serialize>(value: Value) -> Reading<T> {
    let mut rest = value;
    let mut reading = Reading {
        value: None,
        faults: Vec::new(),
        unread: Vec::new(),
    };
    let faults = &mut reading.faults;
    let mut gone = Gone::default();
    loop {
        let fault = match serde_path_to_error::deserialize::<_, T>(&rest) {
            Ok(parsed) => {
                let same = match serde_json::to_value(&parsed) {
                    Ok(understood) => same_forms(&rest, &understood, String::new()),
                    Err(error) => Err(FieldError::new("", error.to_string())),
                };
                if let Err(mut fault) = same {
                    fault.pointer = gone.posted(&fault.pointer);
                    reading.unread.push(fault.pointer.clone());
                    faults.push(fault);
                }
                reading.value = Some(parsed);
                return reading;
            }
            Err(error) => {
                let pointer = pointer_of(error.path());
                field_error(pointer, &error.into_inner())
            }
        };
        let posted = gone.posted(&fault.pointer);
        // What an object means without the word that says what it is is no more than a guess.
        let place = match fault.pointer.rsplit_once('/') {
            Some((whole, "name" | "method" | "kind"))
                if fault.detail.starts_with("unknown variant") && !whole.is_empty() =>
            {
                whole
            }
            _ => &fault.pointer,
        };
        let unread = gone.take(&mut rest, place);
        let fault = FieldError::new(posted, fault.detail);
        // What is missing once it was taken away is no fault of the sender.
        let within = format!("{}/", fault.pointer);
        let is_known = |known: &FieldError| {
            known.pointer == fault.pointer || known.pointer.starts_with(&within)
        };
        if !faults.iter().any(is_known) {
            faults.push(fault);
        }
        match unread {
            Some(unread) if faults.len() < MOST_FAULTS => reading.unread.push(unread),
            _ => return reading,
        }
    }
}

/// As [`read`], of a value that is of no use unless all of it can be read.
pub fn parse<T: DeserializeOwned + Serialize>(value: Value) -> Result<T, Vec<FieldError>> {
    read(value).complete()
}

/// As [`parse`], of what is part of something larger; the first fault alone.
pub fn parse_part<T: DeserializeOwned + Serialize>(value: Value) -> Result<T, FieldError> {
    parse(value).map_err(|faults| {
        let first = faults.into_iter().next();
        first.unwrap_or_else(|| FieldError::new("", "can't be read"))
    })
}

/// What was taken out of lists: places of elements in the lists as they were posted, by the pointers of these.
#[derive(Default)]
struct Gone(BTreeMap<String, BTreeSet<usize>>);

impl Gone {
    /// Where what is at `pointer` in what is left was posted.
    fn posted(&self, pointer: &str) -> String {
        let mut posted = String::new();
        for part in pointer.split('/').skip(1) {
            let place = self.0.get(&posted).zip(part.parse::<usize>().ok());
            posted.push('/');
            match place {
                None => posted.push_str(part),
                Some((gone, left)) => {
                    let before = |place, &one| place + usize::from(one <= place);
                    posted.push_str(&gone.iter().fold(left, before).to_string());
                }
            }
        }
        posted
    }

    /// Takes the field or element at `pointer` away, or the innermost one around it, and says what can't be relied upon
    /// then, as it was posted: that field, or the list.
    fn take(&mut self, value: &mut Value, pointer: &str) -> Option<String> {
        let mut pointer = pointer;
        while let Some((outer, last)) = pointer.rsplit_once('/') {
            match value.pointer_mut(outer) {
                Some(Value::Object(fields)) => {
                    let field = last.replace("~1", "/").replace("~0", "~");
                    if fields.remove(&field).is_some() {
                        return Some(self.posted(pointer));
                    }
                }
                Some(Value::Array(items)) => {
                    let place = last.parse().ok().filter(|&place| place < items.len());
                    if let Some(place) = place {
                        items.remove(place);
                        let (list, element) = (self.posted(outer), self.posted(pointer));
                        let at = element.rsplit_once('/').and_then(|(_, at)| at.parse().ok());
                        self.0
                            .entry(list.clone())
                            .or_default()
                            .extend::<Option<usize>>(at);
                        return Some(list);
                    }
                }
                _ => {}
            }
            pointer = outer;
        }
        None
    }
}

/// As [`parse`], from JSON text. The outer error is for text that is no JSON at all.
pub fn parse_slice<T: DeserializeOwned + Serialize>(
    bytes: &[u8],
) -> Result<Result<T, Vec<FieldError>>, serde_json::Error> {
    serde_json::from_slice(bytes).map(parse)
}

/// Compares what was given with what was understood.
fn same_forms(given: &Value, understood: &Value, pointer: String) -> Result<(), FieldError> {
    let refuse = |wanted: &str, found: &str| {
        Err(FieldError::new(
            pointer.clone(),
            format!("must be {wanted}, not {found}"),
        ))
    };
    match (given, understood) {
        (Value::Array(_), Value::Object(_)) => refuse("an object", "a list"),
        (Value::Object(_), Value::String(_)) => refuse("a word", "an object"),
        (Value::Object(given), Value::Object(understood)) => {
            given
                .iter()
                .try_for_each(|(key, value)| match understood.get(key) {
                    Some(other) => same_forms(value, other, format!("{pointer}/{}", escape(key))),
                    None => Ok(()),
                })
        }
        (Value::Array(given), Value::Array(understood)) => given
            .iter()
            .zip(understood)
            .enumerate()
            .try_for_each(|(index, (value, other))| {
                same_forms(value, other, format!("{pointer}/{index}"))
            }),
        _ => Ok(()),
    }
}

fn field_error(mut pointer: String, error: &serde_json::Error) -> FieldError {
    let detail = error.to_string();
    // serde reports an unknown or missing field on the object; the pointer should name the field.
    for opening in ["unknown field `", "missing field `"] {
        if let Some(rest) = detail.strip_prefix(opening)
            && let Some((field, _)) = rest.split_once("`, ").or_else(|| rest.rsplit_once('`'))
        {
            let last = format!("/{}", escape(field));
            if !pointer.ends_with(&last) {
                pointer.push_str(&last);
            }
        }
    }
    let field = pointer.rsplit('/').next().unwrap_or_default();
    let mut told = in_words_of_json(&detail, field);
    if let Some(place) = elsewhere(&detail) {
        told.push_str(&format!("; it is {place}"));
    } else if let Some(meant) = meant(&detail) {
        told.push_str(&format!("; did you mean `{meant}`?"));
    }
    FieldError::new(pointer, told)
}

/// Where a field is that many look for in the parameters of a training, or of a pruning.
fn elsewhere(detail: &str) -> Option<&'static str> {
    let (field, expected) = detail.strip_prefix("unknown field `")?.split_once("`, ")?;
    let has = |name: &str| expected.contains(&format!("`{name}`"));
    // Costs that bound a search are all that has both.
    if has("nonzero_parameters") && has("latency_ms") {
        let is_ratio = field.ends_with("_ratio");
        return (is_ratio || meant(detail).is_none()).then_some(match is_ratio {
            true => "an absolute figure here, such as `macs`: the ratio times the model's own, which its summary has",
            false => "no cost; a metric can be one of the `objectives`",
        });
    }
    Some(match field {
        "temperature" | "alpha" | "weight" if has("losses") && has("student") => {
            "of the terms of `losses` here, as [{\"name\": \"soft_targets\", \"temperature\": 4, \"weight\": 0.9}, {\"name\": \
             \"cross_entropy\", \"weight\": 0.1}]"
        }
        "finetune" if has("epochs") && has("optimizer") => {
            "the training itself here, whose fields stand without it, as `epochs` does"
        }
        "learning_rate" | "lr" if has("optimizer") => "`optimizer.learning_rate` here",
        "weight_decay" if has("optimizer") => "`optimizer.weight_decay` here",
        "momentum" if has("optimizer") => "`optimizer.momentum` here",
        "batch_size" if has("optimizer") => "`data.batch_size` of the request",
        "macs_ratio" | "parameters_ratio" | "size_ratio" | "latency_ratio" | "sparsity"
        | "channel_sparsity" | "max_accuracy_drop" | "max_worsening"
            if has("target") =>
        {
            "in `target` here, as `target.macs_ratio` is"
        }
        "epochs" | "learning_rate" | "lr" | "optimizer" | "augment" if has("finetune") => {
            "in `finetune` here, as `finetune.epochs` is"
        }
        "epochs" | "learning_rate" | "lr" | "optimizer" if has("trial") => {
            "in `trial` here, as `trial.epochs` is"
        }
        drop if has("max_worsening") && drop.starts_with("max_") => {
            "`max_worsening` here, as {\"metric\": \"r2\", \"by\": 0.02}"
        }
        _ => return None,
    })
}

/// Of the names that serde expected the one that is most like what it found.
fn meant(detail: &str) -> Option<&str> {
    let found = detail.strip_prefix("unknown ")?;
    let (found, expected) = found.split_once("`, expected ")?;
    let (_, found) = found.split_once('`')?;
    let names = expected.split('`').skip(1).step_by(2);
    let names = names.filter(|name| *name != found);
    // A part of a longer name is that, as `auc` is of `roc_auc`.
    let is_part = |name: &str| found.len() > 2 && name.split('_').any(|part| part == found);
    let likeness = names.map(|name| match is_part(name) {
        true => (0.9, name),
        false => (strsim::jaro_winkler(found, name), name),
    });
    let (most, name) = likeness.max_by(|one, other| one.0.total_cmp(&other.0))?;
    (most > 0.85).then_some(name)
}

/// serde names the types of Rust; who writes JSON knows those of JSON.
fn in_words_of_json(detail: &str, field: &str) -> String {
    if detail.starts_with("UUID parsing failed") {
        return "must be an id, a UUID as the lists of the API have it".to_owned();
    }
    if detail.starts_with("missing field `") {
        return "is missing".to_owned();
    }
    let Some((found, wanted)) = detail.rsplit_once(", expected ") else {
        return detail.to_owned();
    };
    let length = found.strip_prefix("invalid length ");
    if let Some((has, needs)) = length.zip(wanted.strip_prefix("an array of length ")) {
        return format!("needs {needs} values, has {has}");
    }
    let word = found.strip_prefix("invalid type: string ");
    if let Some(word) = word.filter(|_| wanted.starts_with("internally tagged enum ")) {
        let tag = match wanted.ends_with(" Evaluation") {
            true => "method",
            false => "name",
        };
        return format!("must be an object, as {{\"{tag}\": {word}}}");
    }
    if let Some(example) = example(found, wanted, field) {
        return example;
    }
    if wanted.starts_with('u') && found.starts_with("invalid value: integer `-") {
        return "must not be negative".to_owned();
    }
    let Some((of_type, thing)) = ["invalid type: ", "invalid value: "]
        .iter()
        .find_map(|place| found.strip_prefix(place))
        .map(|found| (!found.starts_with("integer `"), thing_of_json(found)))
    else {
        return format!("{found}, expected {wanted}");
    };
    let wanted = match wanted {
        "f32" | "f64" => "a number",
        // The range of the type matters to what is beyond it alone; each parameter has its own.
        "u8" | "u16" | "u32" | "u64" | "usize" if of_type => "a whole number",
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number below 2^64",
        "i32" if of_type => "a whole number",
        "i32" => "a whole number from -2147483648 to 2147483647",
        "i64" => "a whole number",
        "a formatted UUID string" => "an id, a UUID as the lists of the API have it",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" | "map with a single key" => "an object",
        "string or map" | "variant identifier" => "a word",
        of if of.starts_with("struct ") || of.contains(" tagged enum ") => "an object",
        other => other,
    };
    format!("must be {wanted}, not {thing}")
}

/// What would be right, where a word stands for what has more than one; `field` is where it stands.
fn example(found: &str, wanted: &str, field: &str) -> Option<String> {
    let word = found.strip_prefix("invalid type: string ")?;
    let key = match wanted.strip_prefix("struct ") {
        Some("Objective") => "metric",
        Some("StepRequest") => "kind",
        Some("Student") => "model",
        Some("LossTerm") => "name",
        None if wanted == "a sequence" => {
            let words = word.trim_matches('"').split(',').map(str::trim);
            let items = words.map(|word| match (word.parse::<f64>(), field) {
                // A number is most often meant as one.
                (Ok(_), _) => word.to_owned(),
                (Err(_), "losses" | "distill") => format!("{{\"name\": \"{word}\"}}"),
                (Err(_), "objectives") => format!("{{\"metric\": \"{word}\"}}"),
                (Err(_), "steps") => format!("{{\"kind\": \"{word}\"}}"),
                (Err(_), _) => format!("\"{word}\""),
            });
            let items: Vec<String> = items.collect();
            return Some(format!("must be a list, as [{}]", items.join(", ")));
        }
        _ => return None,
    };
    Some(format!("must be an object, as {{\"{key}\": {word}}}"))
}

/// What serde found, as it stands in JSON.
fn thing_of_json(found: &str) -> &str {
    match found {
        "sequence" => "a list",
        "map" => "an object",
        "unit variant" | "newtype variant" => "a word",
        _ => {
            let quoted = ["integer `", "floating point `", "boolean `", "character `"]
                .iter()
                .find_map(|kind| found.strip_prefix(kind)?.strip_suffix('`'));
            quoted.or(found.strip_prefix("string ")).unwrap_or(found)
        }
    }
}

/// A key as part of a JSON pointer.
pub(super) fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

fn pointer_of(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(format!("/{index}")),
            Segment::Map { key } => Some(format!("/{}", escape(key))),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect()
}

/// Faults that are told of one body.
const MOST_TOLD: usize = 100;

/// Collects faults while an object is validated.
#[derive(Debug, Default)]
pub struct Faults {
    pub found: Vec<FieldError>,
}

impl Faults {
    /// Adds the fault `detail` at `pointer` unless `holds`, which compares fields of the object.
    pub fn require(&mut self, holds: bool, pointer: &str, detail: impl Into<String>) {
        if !holds {
            let mut fault = FieldError::new(pointer, detail);
            fault.rule.among = Some(String::new());
            self.found.push(fault);
        }
    }

    /// The same of a rule about the field at `pointer` alone.
    pub fn require_value(&mut self, holds: bool, pointer: &str, detail: impl Into<String>) {
        if !holds {
            self.found.push(FieldError::new(pointer, detail));
        }
    }

    /// Adds the fault that `what` is not supported yet, unless `holds`, which compares fields of the object.
    pub fn require_support(&mut self, holds: bool, pointer: &str, what: &str) {
        self.require(holds, pointer, format!("{what} is not supported yet"));
        if let Some(fault) = self.found.last_mut().filter(|_| !holds) {
            fault.rule.not_supported = true;
        }
    }

    /// The problem that they make.
    pub fn problem(mut self) -> Problem {
        let unsupported = self.found.iter().any(|fault| fault.rule.not_supported);
        self.found.truncate(MOST_TOLD);
        let problem = Problem::invalid(self.found);
        match unsupported {
            true => problem.with_code("not_supported"),
            false => problem,
        }
    }

    pub fn extend_under(&mut self, prefix: &str, inner: Faults) {
        self.found
            .extend(inner.found.into_iter().map(|fault| fault.under(prefix)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The one fault.
    fn fault_of<T: DeserializeOwned + Serialize + std::fmt::Debug>(value: Value) -> FieldError {
        let mut faults = parse::<T>(value).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults.remove(0)
    }

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        ratio: f64,
    }

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        items: Vec<Inner>,
    }

    #[test]
    fn a_list_is_not_taken_for_an_object() {
        let fault = fault_of::<Outer>(serde_json::json!({"items": [[1.0]]}));
        assert_eq!(fault.pointer, "/items/0");
        assert!(fault.detail.contains("an object"), "{}", fault.detail);
    }

    #[test]
    fn a_wrong_type_is_reported_at_its_own_pointer() {
        let fault =
            fault_of::<Outer>(serde_json::json!({"items": [{"ratio": 1.0}, {"ratio": "x"}]}));
        assert_eq!(fault.pointer, "/items/1/ratio");
        assert_eq!(fault.detail, "must be a number, not \"x\"");
        let fault = fault_of::<Outer>(serde_json::json!({"items": {"a": 1}}));
        assert_eq!(fault.detail, "must be a list, not an object");
        #[derive(Debug, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Word {
            One,
        }
        let fault = fault_of::<Word>(serde_json::json!(5));
        assert_eq!(fault.detail, "must be a word, not 5");
        let own = r#"a, expected struct b"#;
        let fault = fault_of::<Vec<f64>>(serde_json::json!(own));
        assert_eq!(
            fault.detail,
            "must be a list, as [\"a\", \"expected struct b\"]"
        );
        let fault = fault_of::<Outer>(serde_json::json!({"items": [2.5]}));
        assert_eq!(fault.detail, "must be an object, not 2.5");
        for (given, detail) in [
            ("-3", "must not be negative"),
            ("null", "must be a whole number, not null"),
            ("300", "must be a whole number from 0 to 255, not 300"),
        ] {
            let given = serde_json::from_str(given).unwrap();
            assert_eq!(fault_of::<u8>(given).detail, detail);
        }
    }

    #[test]
    fn an_unknown_field_is_reported_at_its_own_pointer() {
        let fault = fault_of::<Outer>(serde_json::json!({"items": [{"ratio": 1.0, "a/b": 2}]}));
        assert_eq!(fault.pointer, "/items/0/a~1b");
    }

    #[test]
    fn a_missing_field_is_reported_at_its_own_pointer() {
        let fault = fault_of::<Outer>(serde_json::json!({"items": [{}]}));
        assert_eq!(fault.pointer, "/items/0/ratio");
    }

    #[test]
    fn faults_of_several_fields_come_together() {
        let faults = parse::<Outer>(serde_json::json!({
            "items": [{"ratio": "x", "b": 1}, {"ratio": []}], "c": 1, "d": 2,
        }));
        let found: Vec<String> = faults.unwrap_err().into_iter().map(|f| f.pointer).collect();
        // That a number is missing once the wrong one is gone is not told.
        let each = ["/c", "/d", "/items/0/b", "/items/0/ratio", "/items/1/ratio"];
        assert_eq!(found, each);
        let faults = parse::<Vec<f64>>(serde_json::json!([1, "x", 2, [], "y", 3, {}]));
        let found: Vec<String> = faults.unwrap_err().into_iter().map(|f| f.pointer).collect();
        assert_eq!(found, ["/1", "/3", "/4", "/6"]);
        let faults = parse::<Outer>(serde_json::json!({"items": [], "c": 1, "a~/b": 2}));
        let found: Vec<String> = faults.unwrap_err().into_iter().map(|f| f.pointer).collect();
        assert_eq!(found, ["/a~0~1b", "/c"]);
        #[derive(Debug, Default, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct Loose {
            one: f64,
            two: bool,
        }
        let faults = parse::<Loose>(serde_json::json!({"one": "x", "two": 5, "three": 3}));
        let found: Vec<String> = faults.unwrap_err().into_iter().map(|f| f.pointer).collect();
        assert_eq!(found, ["/one", "/three", "/two"]);
    }

    #[test]
    fn what_is_checked_is_what_could_be_read() {
        #[derive(Debug, Default, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct Both {
            one: f64,
            two: f64,
        }
        let given = serde_json::json!({"one": "x", "two": -1.0});
        let (value, faults) = read::<Both>(given).checked(|both| {
            let mut faults = Faults::default();
            faults.require_value(both.one > 0.0, "/one", "must be above 0");
            faults.require_value(both.two > 0.0, "/two", "must be above 0");
            faults.require(both.one > both.two + 3.0, "/two", "must be further below");
            faults
        });
        assert_eq!(value.unwrap().two, -1.0);
        let found: Vec<String> = faults.found.into_iter().map(|f| f.pointer).collect();
        // What compares the two may come of what was not read.
        assert_eq!(found, ["/one", "/two"]);
    }

    #[test]
    fn what_was_meant_is_guessed_where_it_is_near() {
        let fault = fault_of::<Outer>(serde_json::json!({"items": [{"ratio": 1.0, "ratoi": 2}]}));
        assert!(
            fault.detail.ends_with("did you mean `ratio`?"),
            "{}",
            fault.detail
        );
        let fault = fault_of::<Outer>(serde_json::json!({"items": [{"ratio": 1.0, "colour": 2}]}));
        assert!(!fault.detail.contains("did you mean"), "{}", fault.detail);
        // What was given is named again where several lists are.
        let twice =
            "unknown field `macss`, expected `loss`; or: unknown field `macss`, expected `macs`";
        assert_eq!(meant(twice), Some("macs"));
    }

    #[test]
    fn what_is_missing_and_what_is_elsewhere_is_said_in_words() {
        let fault = fault_of::<Outer>(serde_json::json!({"items": [{}]}));
        assert_eq!(
            (&*fault.pointer, &*fault.detail),
            ("/items/0/ratio", "is missing")
        );
        let train = |field: &str| {
            let given = serde_json::json!({field: 0.1});
            fault_of::<crate::spec::train::TrainParams>(given).detail
        };
        assert!(train("learning_rate").ends_with("; it is `optimizer.learning_rate` here"));
        assert!(train("batch_size").ends_with("; it is `data.batch_size` of the request"));
        assert!(train("epoch").ends_with("did you mean `epochs`?"));
    }
}
