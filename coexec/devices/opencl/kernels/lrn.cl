// Local response normalization: each element divided by a power of the sum of squares of `size` channels around it.
// `first` is the piece's first channel in the input's window, `before` how many of the `size` channels come before an element's own.
__kernel void lrn(__global const T *restrict x, int x_off, int8 xs, __global T *restrict y, int y_off, int8 ys, int8 out,
                  int channels, int first, int size, int before, ACC alpha, ACC beta, ACC shift
#ifdef RESIDUAL
                  , __global const T *restrict r, int r_off, int8 rs
#endif
) {
#ifdef BETA_075  // beta = 0.75
#define POWER(v) (sqrt(v) * sqrt(sqrt(v)))
#else
#define POWER(v) pow(v, beta)
#endif
#if V > 1
  // Planes are dense: a work-item makes V neighbours.
  const int c = get_global_id(1), n = get_global_id(2), p = get_global_id(0) * V, pixels = out.s0 * out.s1 * out.s2, count = min(V,
      pixels - p);
  if (count <= 0) return;
  x += x_off + n * xs.s0 + p;
  ACC total[V], one[V];
  for (int l = 0; l < V; l++) total[l] = 0;
  for (int k = max(0, first + c - before); k < min(channels, first + c - before + size); k++)
    if (count == V) {
      const CAT(ACC, V) v = CAT(vload, V)(0, x + k * xs.s1);
      CAT(vstore, V)(CAT(vload, V)(0, total) + v * v, 0, total);
    } else for (int l = 0; l < count; l++) total[l] += x[k * xs.s1 + l] * x[k * xs.s1 + l];
  const CAT(ACC, V) scale = shift + alpha * CAT(vload, V)(0, total);
#ifdef BETA_075
  CAT(vstore, V)(1 / POWER(scale), 0, one);
#else
  CAT(vstore, V)(1 / pow(scale, (CAT(ACC, V))(beta)), 0, one);
#endif
  for (int l = 0; l < count; l++) {
    ACC v = x[(first + c) * xs.s1 + l] * one[l];
#ifdef RESIDUAL
    v += r[r_off + n * rs.s0 + c * rs.s1 + p + l];
#endif
    y[y_off + n * ys.s0 + c * ys.s1 + p + l] = ACTIVATE(ACC, v);
  }
#else
  const int position = get_global_id(0), c = get_global_id(1), n = get_global_id(2);
  if (position >= out.s0 * out.s1 * out.s2) return;
  const int w = position % out.s2, h = position / out.s2 % out.s1, d = position / (out.s2 * out.s1);
  x += x_off + n * xs.s0 + d * xs.s2 + h * xs.s3 + w * xs.s4;
  ACC total = 0;
  for (int k = max(0, first + c - before); k < min(channels, first + c - before + size); k++) {
    const ACC v = (ACC)LOAD(T, x, k * xs.s1);
    total = FMA(v, v, total);
  }
  ACC v = (ACC)LOAD(T, x, (first + c) * xs.s1) / POWER(shift + alpha * total);
#ifdef RESIDUAL
  v += (ACC)LOAD(T, r, r_off + n * rs.s0 + c * rs.s1 + d * rs.s2 + h * rs.s3 + w * rs.s4);
#endif
  STORE(T, y, y_off + n * ys.s0 + c * ys.s1 + d * ys.s2 + h * ys.s3 + w * ys.s4, ACTIVATE(ACC, v));
#endif
}
