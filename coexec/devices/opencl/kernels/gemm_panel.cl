// Stacks of matrix products where one work-item owns a core: it takes a panel of NR columns of B (PACKED: made beforehand; else it
// gathers one into local memory, which such devices keep in cache) and runs over all rows of A. Arguments as in gemm_direct;
// columns of y and r lie side by side. A is read in place: rows beyond the last repeat it and are not stored. A residual is added where `added`
// is not 0; else r stands for y, and is not read.

#ifdef PACKED
#define PANEL_SPACE __global const
#else
#define PANEL_SPACE __local
#endif
#ifdef BIAS
#define ADD_BIAS(v, i, j) \
  v += beta * (bias_column == 1 ? VLOAD(j, bias + (m + i) * bias_row) : (VEC)(bias[(m + i) * bias_row]));
#define ADD_ONE_BIAS(v, i, column) v += beta * bias[(m + i) * bias_row + (column) * bias_column];
#else
#define ADD_BIAS(v, i, j)
#define ADD_ONE_BIAS(v, i, column)
#endif
#define REPLACE(v, A) v = A(VEC, v);
#define REPLACE_ONE(v, A) v = A(T, v);
#define STORE_TILE(V, A) FOR_TILE(V) VSTORE(A(VEC, acc[i][j]), j, y + (m + i) * y_row);

// Whole tiles are stored from registers. What lies at an edge goes through memory: sums of which only some are wanted stay in no register.
#define TILE(V) {                                                                                      \
  VEC acc[MR][V];                                                                                      \
  TILE_CLEAR(acc, V)                                                                                   \
  __global const T *left = a + m * a_row;                                                              \
  if (m + MR <= rows) { TILE_RUN(acc, V, left, a_row, a_depth, panel, NR, depth, 0) }                  \
  else PLAIN_LOOP for (int k = 0; k < depth; k++)                                                      \
    FOR_TILE(V) acc[i][j] = FMA((VEC)(left[min(i, rows - 1 - m) * a_row + k * a_depth]), VLOAD(j, panel + k * NR), acc[i][j]); \
  FOR_TILE(V) acc[i][j] *= alpha;                                                                      \
  if (m + MR <= rows && lanes >= V * VW) {                                                             \
    FOR_TILE(V) { ADD_BIAS(acc[i][j], i, j) }                                                          \
    if (added) { FOR_TILE(V) acc[i][j] += VLOAD(j, r + (m + i) * r_row); }                             \
    CHOOSE(STORE_TILE, V)                                                                              \
  } else {                                                                                             \
    T edge[MR * V * VW];                                                                               \
    FOR_TILE(V) VSTORE(acc[i][j], i * V + j, edge);                                                    \
    PLAIN_LOOP for (int i = 0; i < MR && m + i < rows; i++) {                                          \
      const int whole = min(lanes / VW, V);                                                            \
      PLAIN_LOOP for (int j = 0; j < whole; j++) {                                                     \
        VEC v = VLOAD(i * V + j, edge);                                                                \
        ADD_BIAS(v, i, j)                                                                              \
        if (added) v += VLOAD(j, r + (m + i) * r_row);                                                 \
        CHOOSE(REPLACE, v)                                                                             \
        VSTORE(v, j, y + (m + i) * y_row);                                                             \
      }                                                                                                \
      PLAIN_LOOP for (int l = whole * VW; l < min(lanes, V * VW); l++) {                               \
        T one = edge[i * V * VW + l];                                                                  \
        ADD_ONE_BIAS(one, i, l)                                                                        \
        if (added) one += r[(m + i) * r_row + l];                                                      \
        CHOOSE(REPLACE_ONE, one)                                                                       \
        y[(m + i) * y_row + l] = one;                                                                  \
      }                                                                                                \
    }                                                                                                  \
  }                                                                                                    \
}

#ifdef PACKED
#define PANEL_ARG
#else
#define PANEL_ARG , __local T *restrict panel
#endif
#ifdef BIAS
#define MATRIX_BIAS_NUMBERS(V) V(int, bias_off) V(int, bias_row) V(int, bias_column) V(ACC, beta)
#else
#define MATRIX_BIAS_NUMBERS(V)
#endif
#define NUMBERS(V)                                                                                                                     \
  V(int, a_off) V(int, a_row) V(int, a_depth) V(int, b_off) V(int, b_depth) V(int, b_column) V(int, y_off) V(int, y_row)               \
  V(int, y_column) V(int, stacks_off) V(int, depth) V(ACC, alpha) V(int, rows) V(int, columns) MATRIX_BIAS_NUMBERS(V) V(int, r_off)           \
  V(int, r_row) V(int, r_column) V(int, added) LATE_NUMBERS(V)

struct PACKED_ gemm_numbers { NUMBERS(FIELD_) };

__attribute__((reqd_work_group_size(1, 1, 1)))
__kernel void gemm_panel(__global const T *restrict a, __global const T *restrict b, __global T *restrict y, __global const int *restrict stacks
                         PANEL_ARG BIAS_ARG, __global const T *restrict r, struct gemm_numbers numbers IN_STEP_ARGS) {
  NUMBERS(OWN_)
  IN_STEP
  const int first = get_global_id(0) * NR, lanes = min(NR, columns - first);
  stacks += stacks_off + get_global_id(1) * 5;
  a += a_off + stacks[0];
#ifdef PACKED
  __global const T *panel = b + b_off + get_global_id(0) * NR * depth;
#else
  b += b_off + stacks[1] + first * b_column;
  if (b_column == 1 && lanes == NR)
    for (int k = 0; k < depth; k++)
      for (int j = 0; j < NV; j++) VSTORE(VLOAD(j, b + k * b_depth), j, panel + k * NR);
  else
    for (int l = 0; l < NR; l++)
      for (int k = 0; k < depth; k++) panel[k * NR + l] = l < lanes ? b[k * b_depth + l * b_column] : 0;
#endif
  y += y_off + stacks[2] + first;
  r += r_off + stacks[3] + first;
#ifdef BIAS
  bias += bias_off + stacks[4] + first * bias_column;
#endif
  const int vectors = (lanes + VW - 1) / VW;
  PLAIN_LOOP for (int m = 0; m < rows; m += MR) {
    EACH_WIDTH(vectors, TILE)
  }
  DONE_IN_STEP
}
