// Stacks of matrix products with any stride of memory: one output element a work-item.
//
// `stacks` holds, per product, the offsets of A, B, Y and R (residual) and C in elements; strides are (row, column) of each.

__kernel void gemm_direct(__global const T *restrict a, int a_off, int a_row, int a_depth, __global const T *restrict b, int b_off,
                          int b_depth, int b_column,
                          __global T *restrict y, int y_off, int y_row, int y_column, __global const int *restrict stacks, int stacks_off,
                          int depth, ACC alpha, int columns
#ifdef BIAS
                          , __global const T *restrict bias, int bias_off, int bias_row, int bias_column, ACC beta
#endif
#ifdef RESIDUAL
                          , __global const T *restrict r, int r_off, int r_row, int r_column
#endif
) {
  const int column = get_global_id(0), row = get_global_id(1);
  if (column >= columns) return;
  stacks += stacks_off + get_global_id(2) * 5;
  a += a_off + stacks[0] + row * a_row;
  b += b_off + stacks[1] + column * b_column;
  ACC sum = 0;
  for (int k = 0; k < depth; k++) sum += (ACC)LOAD(T, a, k * a_depth) * (ACC)LOAD(T, b, k * b_depth);
  sum *= alpha;
#ifdef BIAS
  sum += beta * (ACC)LOAD(T, bias, bias_off + stacks[4] + row * bias_row + column * bias_column);
#endif
#ifdef RESIDUAL
  sum += (ACC)LOAD(T, r, r_off + stacks[3] + row * r_row + column * r_column);
#endif
  STORE(T, y, y_off + stacks[2] + row * y_row + column * y_column, ACTIVATE(ACC, sum));
}
