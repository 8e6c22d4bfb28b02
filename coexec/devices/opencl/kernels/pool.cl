// Sliding and global pools, any stride of memory, up to three spatial axes: one output a work-item.
//
// int8 arguments hold (batch, channel, depth, height, width) for strides in elements, (depth, height, width) for the rest.
// MaxPool: `first` and `full` give the piece's place in the whole input, (batch, channel, depth, height, width), for Indices.
// AveragePool: `low` and `high` bound the window coordinates that count in the divisor (padding counted or not).

#ifdef RESIDUAL
#define RESIDUAL_ARGS , __global const T *restrict r, int r_off, int8 rs
#define ADD_RESIDUAL(v, n, c, d, h, w) v += (ACC)LOAD(T, r, r_off + (n) * rs.s0 + (c) * rs.s1 + (d) * rs.s2 + (h) * rs.s3 + (w) * rs.s4);
#else
#define RESIDUAL_ARGS
#define ADD_RESIDUAL(v, n, c, d, h, w)
#endif

#define POOL_POSITION                                                                             \
  const int position = get_global_id(0), c = get_global_id(1), n = get_global_id(2);              \
  if (position >= out.s0 * out.s1 * out.s2) return;                                               \
  const int ow = position % out.s2, oh = position / out.s2 % out.s1, od = position / (out.s2 * out.s1); \
  const int d0 = od * stride.s0 - pad.s0, h0 = oh * stride.s1 - pad.s1, w0 = ow * stride.s2 - pad.s2;   \
  x += x_off + n * xs.s0 + c * xs.s1;

#define FOR_TAPS                                                  \
  for (int kd = 0; kd < size.s0; kd++) {                          \
    const int d = d0 + kd * dilation.s0;                          \
    if (d < 0 || d >= in.s0) continue;                            \
    for (int kh = 0; kh < size.s1; kh++) {                        \
      const int h = h0 + kh * dilation.s1;                        \
      if (h < 0 || h >= in.s1) continue;                          \
      __global const T *row = x + d * xs.s2 + h * xs.s3;          \
      for (int kw = 0; kw < size.s2; kw++) {                      \
        const int w = w0 + kw * dilation.s2;                      \
        if (w < 0 || w >= in.s2) continue;

#define END_TAPS }}}

#define PUT(v) STORE(T, y, y_off + n * ys.s0 + c * ys.s1 + od * ys.s2 + oh * ys.s3 + ow * ys.s4, ACTIVATE(ACC, v));

#ifdef MAXPOOL
__kernel void max_pool(__global const T *restrict x, int x_off, int8 xs, __global T *restrict y, int y_off, int8 ys, int8 in, int8 out,
                       int8 size, int8 stride, int8 dilation, int8 pad
#ifdef INDICES
                       , __global long *restrict indices, int i_off, int8 is, int8 first, int8 full, int column_major
#endif
                       RESIDUAL_ARGS) {
  POOL_POSITION
  ACC best = LOWEST;
  int found = 0, bd = 0, bh = 0, bw = 0;
  FOR_TAPS
    const ACC v = LOAD(T, row, w * xs.s4);
    if (!found || v > best || (v != v && best == best)) best = v, bd = d, bh = h, bw = w;
    found = 1;
  END_TAPS
#ifdef INDICES
  long at = (long)(first.s0 + n) * full.s1 + first.s1 + c;
  const int fd = first.s2 + bd, fh = first.s3 + bh, fw = first.s4 + bw;
  at = at * full.s2 * full.s3 * full.s4 + (column_major ? ((long)fw * full.s3 + fh) * full.s2 + fd : ((long)fd * full.s3 + fh) * full.s4 + fw);
  indices[i_off + n * is.s0 + c * is.s1 + od * is.s2 + oh * is.s3 + ow * is.s4] = found ? at : 0;
#endif
  ACC value = best;
  ADD_RESIDUAL(value, n, c, od, oh, ow)
  PUT(value)
}
#else
// How many of `size` taps from `start` lie in [low, high).
static int taps(int start, int size, int dilation, int low, int high) {
  int count = 0;
  for (int k = 0; k < size; k++) count += start + k * dilation >= low && start + k * dilation < high;
  return count;
}

__kernel void average_pool(__global const T *restrict x, int x_off, int8 xs, __global T *restrict y, int y_off, int8 ys, int8 in, int8 out,
                           int8 size, int8 stride, int8 dilation, int8 pad, int8 low, int8 high RESIDUAL_ARGS) {
  POOL_POSITION
  ACC sum = 0;
  FOR_TAPS
    sum += (ACC)LOAD(T, row, w * xs.s4);
  END_TAPS
  const int count = taps(d0, size.s0, dilation.s0, low.s0, high.s0) * taps(h0, size.s1, dilation.s1, low.s1, high.s1)
                  * taps(w0, size.s2, dilation.s2, low.s2, high.s2);
  sum = sum / (ACC)max(count, 1);
  ADD_RESIDUAL(sum, n, c, od, oh, ow)
  PUT(sum)
}

__kernel void lp_pool(__global const T *restrict x, int x_off, int8 xs, __global T *restrict y, int y_off, int8 ys, int8 in, int8 out,
                      int8 size, int8 stride, int8 dilation, int8 pad, int p RESIDUAL_ARGS) {
  POOL_POSITION
  ACC sum = 0;
  FOR_TAPS
    const ACC v = fabs((ACC)LOAD(T, row, w * xs.s4));
    sum += p == 1 ? v : p == 2 ? v * v : pow(v, (ACC)p);
  END_TAPS
  sum = p == 1 ? sum : p == 2 ? sqrt(sum) : pow(sum, (ACC)1 / (ACC)p);
  ADD_RESIDUAL(sum, n, c, od, oh, ow)
  PUT(sum)
}
#endif
