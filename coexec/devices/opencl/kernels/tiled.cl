// Matrix products for devices with many cores and fast local memory: a work-group makes a BM x BN block of outputs, a work-item TM x TN
// of it, in steps of BK along the depth. Work-group: (BN / TN, BM / TM). BK * BN and BK * BM are multiples of its size.

#define WX (BN / TN)
#define WY (BM / TM)

#define BLOCK_BEGIN                                                                                  \
  __local ACC left[BK][BM + 1], right[BK][BN + 1];                                                     \
  const int lx = get_local_id(0), ly = get_local_id(1), item = ly * WX + lx;                         \
  const int first_column = get_group_id(0) * BN, first_row = get_group_id(1) * BM;                   \
  ACC acc[TM][TN];                                                                                   \
  for (int i = 0; i < TM; i++) for (int j = 0; j < TN; j++) acc[i][j] = 0;

#define BLOCK_STEP                                                                                   \
  barrier(CLK_LOCAL_MEM_FENCE);                                                                      \
  for (int k = 0; k < BK; k++) {                                                                     \
    ACC some[TN];                                                                                    \
    for (int j = 0; j < TN; j++) some[j] = right[k][lx + j * WX];                               \
    for (int i = 0; i < TM; i++) {                                                                   \
      const ACC one = left[k][ly + i * WY];                                                     \
      for (int j = 0; j < TN; j++) acc[i][j] = FMA(one, some[j], acc[i][j]);                         \
    }                                                                                                \
  }                                                                                                  \
  barrier(CLK_LOCAL_MEM_FENCE);

#define FOR_BLOCK                                                                                    \
  for (int i = 0; i < TM; i++) {                                                                     \
    const int row = first_row + ly + i * WY;                                                         \
    if (row >= rows) continue;                                                                       \
    for (int j = 0; j < TN; j++) {                                                                   \
      const int column = first_column + lx + j * WX;                                                 \
      if (column >= columns) continue;                                                               \
      ACC v = acc[i][j];

#define END_BLOCK }}

#ifdef CONV
// Implicit matrix product: rows are output channels, columns output pixels, depth (input channel, kernel row, kernel column).
// w is (out channel, depth), contiguous.
__attribute__((reqd_work_group_size(WX, WY, 1)))
__kernel void conv_tiled(__global const T *restrict x, int x_off, int8 xs, __global const T *restrict w, int w_off,
                         __global T *restrict y, int y_off, int8 ys,
                         int groups, int in_channels, int rows, int8 in, int8 out, int8 size, int8 stride, int8 dilation, int8 pad
#ifdef BIAS
                         , __global const T *restrict bias, int bias_off, int bias_stride
#endif
#ifdef RESIDUAL
                         , __global const T *restrict r, int r_off, int8 rs
#endif
) {
  BLOCK_BEGIN
  const int columns = out.s1 * out.s2, taps = size.s1 * size.s2, depth = in_channels * taps;
  const int n = get_group_id(2) / groups, group = get_group_id(2) % groups;
  x += x_off + n * xs.s0 + group * in_channels * xs.s1;
  w += w_off + group * rows * depth;
  for (int k0 = 0; k0 < depth; k0 += BK) {
    for (int e = item; e < BM * BK; e += WX * WY) {
      const int k = e % BK, m = e / BK;
      left[k][m] = first_row + m < rows && k0 + k < depth ? LOAD(T, w, (first_row + m) * depth + k0 + k) : 0;
    }
    for (int e = item; e < BN * BK; e += WX * WY) {
      const int k = k0 + e / BN, p = first_column + e % BN;
      const int c = k / taps, tap = k - c * taps, kh = tap / size.s2, kw = tap - kh * size.s2, oh = p / out.s2, ow = p - oh * out.s2;
      const int h = oh * stride.s1 - pad.s1 + kh * dilation.s1, i = ow * stride.s2 - pad.s2 + kw * dilation.s2;
      right[e / BN][e % BN] = k < depth && p < columns && h >= 0 && h < in.s1 && i >= 0 && i < in.s2
          ? LOAD(T, x, c * xs.s1 + h * xs.s3 + i * xs.s4) : 0;
    }
    BLOCK_STEP
  }
  FOR_BLOCK
    const int oc = group * rows + row, oh = column / out.s2, ow = column - oh * out.s2;
#ifdef BIAS
    v += (ACC)LOAD(T, bias, bias_off + oc * bias_stride);
#endif
#ifdef RESIDUAL
    v += (ACC)LOAD(T, r, r_off + n * rs.s0 + oc * rs.s1 + oh * rs.s3 + ow * rs.s4);
#endif
    STORE(T, y, y_off + n * ys.s0 + oc * ys.s1 + oh * ys.s3 + ow * ys.s4, ACTIVATE(ACC, v));
  END_BLOCK
}
#else
// Stacks of matrix products, any stride of memory; arguments as in gemm_direct.
__attribute__((reqd_work_group_size(WX, WY, 1)))
__kernel void gemm_tiled(__global const T *restrict a, int a_off, int a_row, int a_depth, __global const T *restrict b, int b_off,
                         int b_depth, int b_column,
                         __global T *restrict y, int y_off, int y_row, int y_column, __global const int *restrict stacks, int stacks_off,
                         int depth, ACC alpha, int rows, int columns
#ifdef BIAS
                         , __global const T *restrict bias, int bias_off, int bias_row, int bias_column, ACC beta
#endif
#ifdef RESIDUAL
                         , __global const T *restrict r, int r_off, int r_row, int r_column
#endif
) {
  BLOCK_BEGIN
  stacks += stacks_off + get_group_id(2) * 5;
  a += a_off + stacks[0];
  b += b_off + stacks[1];
  for (int k0 = 0; k0 < depth; k0 += BK) {
    for (int e = item; e < BM * BK; e += WX * WY) {
      const int k = a_row == 1 ? e / BM : e % BK, m = a_row == 1 ? e % BM : e / BK;
      left[k][m] = first_row + m < rows && k0 + k < depth ? LOAD(T, a, (first_row + m) * a_row + (k0 + k) * a_depth) : 0;
    }
    for (int e = item; e < BN * BK; e += WX * WY) {
      const int k = b_depth == 1 ? e % BK : e / BN, p = b_depth == 1 ? e / BK : e % BN;
      right[k][p] = k0 + k < depth && first_column + p < columns
          ? LOAD(T, b, (k0 + k) * b_depth + (first_column + p) * b_column) : 0;
    }
    BLOCK_STEP
  }
  FOR_BLOCK
    v *= alpha;
#ifdef BIAS
    v += beta * (ACC)LOAD(T, bias, bias_off + stacks[4] + row * bias_row + column * bias_column);
#endif
#ifdef RESIDUAL
    v += (ACC)LOAD(T, r, r_off + stacks[3] + row * r_row + column * r_column);
#endif
    STORE(T, y, y_off + stacks[2] + row * y_row + column * y_column, ACTIVATE(ACC, v));
  END_BLOCK
}
#endif
