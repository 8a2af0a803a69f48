"""Matrix products: Gemm, MatMul, Einsum."""

import references
from declare import case

case("gemm", "Gemm", [(3, 4), (4, 5), (5,)], weights=(1, 2))
case("gemm_turned_scaled", "Gemm", [(4, 3), (5, 4), (3, 5)], transA=1, transB=1, alpha=0.5, beta=2.0)
case("gemm_without_bias", "Gemm", [(3, 4), (5, 4)], weights=(1,), transB=1)
case("gemm_bias_column", "Gemm", [(3, 4), (4, 5), (3, 1)])
case("gemm_bias_single", "Gemm", [(3, 4), (4, 5), ()], beta=0.5)
case("gemm_bias_row_scaled", "Gemm", [(3, 4), (4, 5), (5,)], weights=(1, 2), alpha=2.0)
case("gemm_of_itself", "Gemm", [(3, 4)], reads=(0, 0), transB=1)
case("gemm_all_the_same", "Gemm", [(4, 4)], reads=(0, 0, 0), transA=1, alpha=0.5, beta=2.0)
case("gemm_shared_bias", "Gemm", [(4, 4), (4, 4)], weights=(1,), reads=(0, 1, 1))
case("matmul", "MatMul", [(3, 4), (4, 5)])
case("matmul_batch", "MatMul", [(2, 3, 3, 4), (2, 3, 4, 5)])
case("matmul_one_matrix", "MatMul", [(2, 3, 4), (4, 5)], weights=(1,))
case("matmul_broadcast", "MatMul", [(2, 1, 3, 4), (3, 4, 5)])
case("matmul_left_matrix", "MatMul", [(3, 4), (2, 4, 5)])
case("matmul_vector", "MatMul", [(4,), (2, 4, 3)])
case("matmul_by_vector", "MatMul", [(2, 3, 4), (4,)])
case("matmul_vectors", "MatMul", [(4,), (4,)])
case("matmul_of_itself", "MatMul", [(4, 4)], reads=(0, 0))
case("matmul_batch_of_itself", "MatMul", [(2, 3, 3)], reads=(0, 0))

EQUATIONS = [
    ("matmul", "ij,jk->ik", [(3, 4), (4, 5)]),
    ("batch", "bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
    ("attention", "bhid,bhjd->bhij", [(2, 2, 3, 4), (2, 2, 5, 4)]),
    ("attended", "bhij,bjhd->bihd", [(2, 2, 3, 5), (2, 5, 2, 4)]),
    ("one_matrix", "abc,cd->abd", [(2, 3, 4), (4, 5)]),
    ("ellipsis", "...ij,...jk->...ik", [(2, 2, 3, 4), (2, 2, 4, 5)]),
    ("ellipsis_broadcast", "...ij,...jk->...ik", [(2, 1, 3, 4), (1, 3, 4, 5)]),
    ("ellipsis_sum", "...i->...", [(2, 3, 4)]),
    ("diagonal", "ii->i", [(4, 4)]),
    ("diagonal_batch", "bii->bi", [(2, 3, 3)]),
    ("trace", "ii->", [(4, 4)]),
    ("sum", "ij->", [(3, 4)]),
    ("sum_axis", "ijk->j", [(2, 3, 4)]),
    ("turned", "ijk->kij", [(2, 3, 4)]),
    ("product", "ij,ij->ij", [(3, 4), (3, 4)]),
    ("inner", "ij,ij->", [(3, 4), (3, 4)]),
    ("outer", "i,j->ij", [(3,), (4,)]),
    ("rows", "bij,bj->bi", [(2, 3, 4), (2, 4)]),
    ("three", "ij,jk,kl->il", [(2, 3), (3, 4), (4, 2)]),
    ("three_shared", "bi,ijk,bk->bj", [(2, 3), (3, 4, 2), (2, 2)]),
    ("implicit", "ij,jk", [(3, 4), (4, 5)]),
    ("implicit_turned", "ba", [(3, 4)]),
    ("spaces", "i j, j k -> i k", [(3, 4), (4, 5)]),
]
for name, equation, shapes in EQUATIONS:
    case(f"einsum_{name}", "Einsum", shapes, equation=equation)
# ONNX Runtime wants ellipses of as many axes everywhere, ONNX and NumPy don't.
case("einsum_ellipsis_ranks", "Einsum", [(2, 1, 3, 4), (3, 4, 5)], equation="...ij,...jk->...ik",
     torch=references.einsum, runtime=False)
case("einsum_weight", "Einsum", [(2, 3, 4), (4, 5)], weights=(1,), equation="bij,jk->bik")
case("einsum_of_itself", "Einsum", [(3, 4)], reads=(0, 0), equation="ij,kj->ik")
