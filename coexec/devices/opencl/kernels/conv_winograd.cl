// 3x3 convolution of stride 1 by Winograd's F(M x M, 3 x 3): 36 multiplications make 4 x 4 outputs, where 144 would do it directly; 16 make 2 x 2.
//
// One work-item owns a core and makes NR tiles of M x M outputs for every output channel, a tile a vector lane. All between the input
// and the output stays in local memory, which such devices keep in cache:
// strip (one channel's rows with padding, columns sorted by index modulo M) -> window (SIDE x SIDE vectors) -> freq [POINTS][in channel][NR];
// then per MR output channels: POINTS matrix products -> points [POINTS][MR][NR] -> line (M rows of outputs in order) -> y.
// Weights come transformed, [group][channel tile][POINTS][in channel][MR].
//
// Where freq is too large for that, two launches: STAGE 1 leaves [batch * group][panel][POINTS][in channel][NR] in global memory, in STAGE 2 a
// work-item makes MR output channels of every panel, so that its weights stay in cache. STAGE 0 is all at once.
//
// A residual is added where `added` is not 0; else r stands for y, and is not read.

#if STAGE == 0
#define FREQ_SPACE __local
#else
#define FREQ_SPACE __global
#endif

#define SIDE (M + 2)
#define POINTS (SIDE * SIDE)

// o = B' d, o = A' m
#if M == 4
#define TRANSFORM_IN(d, o)                             \
  o[0] = 4 * d[0] - 5 * d[2] + d[4];                   \
  o[1] = (d[4] - 4 * d[2]) + (d[3] - 4 * d[1]);        \
  o[2] = (d[4] - 4 * d[2]) - (d[3] - 4 * d[1]);        \
  o[3] = (d[4] - d[2]) + 2 * (d[3] - d[1]);            \
  o[4] = (d[4] - d[2]) - 2 * (d[3] - d[1]);            \
  o[5] = 4 * d[1] - 5 * d[3] + d[5];
#define TRANSFORM_OUT(m, o)                            \
  o[0] = m[0] + (m[1] + m[2]) + (m[3] + m[4]);         \
  o[1] = (m[1] - m[2]) + 2 * (m[3] - m[4]);            \
  o[2] = (m[1] + m[2]) + 4 * (m[3] + m[4]);            \
  o[3] = (m[1] - m[2]) + 8 * (m[3] - m[4]) + m[5];
#else
#define TRANSFORM_IN(d, o)                             \
  o[0] = d[0] - d[2];                                  \
  o[1] = d[1] + d[2];                                  \
  o[2] = d[2] - d[1];                                  \
  o[3] = d[1] - d[3];
#define TRANSFORM_OUT(m, o)                            \
  o[0] = m[0] + (m[1] + m[2]);                         \
  o[1] = (m[1] - m[2]) - m[3];
#endif

#define REPLACE(o, A) _Pragma("unroll") for (int k = 0; k < M; k++) o[k] = A(VEC, o[k]);
#define REPLACE_ONE(v, A) v = A(T, v);

#define PRODUCTS(V) {                                                                       \
  VEC acc[MR][V];                                                                           \
  TILE_CLEAR(acc, V)                                                                        \
  TILE_RUN(acc, V, weights, 1, MR, freq + point * in_channels * NR, NR, in_channels, AHEAD)        \
  FOR_TILE(V) VSTORE(acc[i][j], j, points + (point * MR + i) * NR);                         \
}

#if STAGE == 0
#define FREQ_NUMBERS(V)
#else
#define FREQ_NUMBERS(V) V(int, freqs_off)
#endif
#define NUMBERS(V)                                                                                                                     \
  V(int, x_off) V(int8, xs) V(int, w_off) V(int, y_off) V(int8, ys) V(int, groups) V(int, in_channels) V(int, out_channels)            \
  V(int8, in) V(int8, out) V(int8, pad) FREQ_NUMBERS(V) BIAS_NUMBERS(V) V(int, r_off) V(int8, rs) V(int, added) LATE_NUMBERS(V)

struct PACKED_ winograd_numbers { NUMBERS(FIELD_) };

__attribute__((reqd_work_group_size(1, 1, 1)))
__kernel void conv_winograd(__global const T *restrict x, __global const T *restrict w, __global T *restrict y,
#if STAGE == 0
                            __local T *restrict freq,
#else
                            __global T *restrict freqs,
#endif
                            __local T *restrict points, __local T *restrict line, __local T *restrict strip BIAS_ARG,
                            __global const T *restrict r, struct winograd_numbers numbers IN_STEP_ARGS) {
  NUMBERS(OWN_)
  IN_STEP
  const int H = in.s1, W = in.s2, OH = out.s1, OW = out.s2;
  const int across = (OW + M - 1) / M, tiles = across * ((OH + M - 1) / M);
  const int batch = get_global_id(1) / groups, group = get_global_id(1) % groups;
  const int panels = (tiles + NR - 1) / NR, channel_tiles = (out_channels + MR - 1) / MR;
#if STAGE == 2
  const int panel_begin = 0, panel_end = panels, tile_begin = get_global_id(0), tile_end = tile_begin + 1;
#else
  const int panel_begin = get_global_id(0), panel_end = panel_begin + 1, tile_begin = 0, tile_end = channel_tiles;
#endif
  x += x_off + batch * xs.s0 + group * in_channels * xs.s1;
  w += w_off + group * channel_tiles * MR * POINTS * in_channels;
  y += y_off + batch * ys.s0 + group * out_channels * ys.s1;
  r += r_off + batch * rs.s0 + group * out_channels * rs.s1;
  PLAIN_LOOP for (int panel = panel_begin; panel < panel_end; panel++) {
  const int first = panel * NR, lanes = min(NR, tiles - first), vectors = (lanes + VW - 1) / VW;
  const int top = first / across, bottom = (first + lanes - 1) / across;
  const int left = top == bottom ? first - top * across : 0, right = top == bottom ? left + lanes : across;
  const int phase = right - left + 1 + VW, strip_row = M * phase, strip_rows = (bottom - top) * M + SIDE;
  const int column = left * M - pad.s2, row = top * M - pad.s1;
  // Groups of M columns that lie wholly inside the input, and of them runs of sixteen columns.
  const int inner = column >= 0 ? 0 : (M - 1 - column) / M, used = right - left + 1;
  const int inner_end = clamp((W - column) / M, inner, max(used, inner));
#if STAGE != 0
  __global T *freq = freqs + freqs_off + (get_global_id(1) * panels + panel) * POINTS * in_channels * NR;
#endif
#if STAGE != 2
  PLAIN_LOOP for (int c = 0; c < in_channels; c++, x += xs.s1) {
    PLAIN_LOOP for (int s = 0; s < strip_rows; s++) {
      const int h = row + s;
      __local T *cells = strip + s * strip_row;
      if (h < 0 || h >= H) {
        PLAIN_LOOP for (int p = 0; p < M; p++)
          PLAIN_LOOP for (int i = 0; i < used; i += VW) VSTORE((VEC)(0), 0, cells + p * phase + i);
        continue;
      }
      __global const T *from = x + h * xs.s3 + column;
      int i = 0;
      PLAIN_LOOP for (; i < min(inner, used); i++)
        PLAIN_LOOP for (int p = 0; p < M; p++)
          cells[p * phase + i] = column + M * i + p >= 0 && column + M * i + p < W ? from[M * i + p] : 0;
      for (; i + 16 / M <= inner_end; i += 16 / M) {
        const CAT(T, 16) v = vload16(0, from + M * i);
#if M == 4
        vstore4(v.s048c, 0, cells + i);
        vstore4(v.s159d, 0, cells + phase + i);
        vstore4(v.s26ae, 0, cells + 2 * phase + i);
        vstore4(v.s37bf, 0, cells + 3 * phase + i);
#else
        vstore8(v.even, 0, cells + i);
        vstore8(v.odd, 0, cells + phase + i);
#endif
      }
      PLAIN_LOOP for (; i < used; i++)
        PLAIN_LOOP for (int p = 0; p < M; p++) cells[p * phase + i] = column + M * i + p < W ? from[M * i + p] : 0;
    }
    __local T *window = points, *to = window;  // free until the products are made
    PLAIN_LOOP for (int kh = 0; kh < SIDE; kh++)
      PLAIN_LOOP for (int kw = 0; kw < SIDE; kw++, to += NR) {
        __local const T *tap = strip + kh * strip_row + kw % M * phase + kw / M;
        PLAIN_LOOP for (int o = top; o <= bottom; o++, tap += M * strip_row) {
          const int begin = max(0, o * across - first), end = min(lanes, (o + 1) * across - first);
          __local const T *at = tap + first + begin - o * across - left;
          PLAIN_LOOP for (int l = begin; l < end; l += VW, at += VW) VSTORE(VLOAD(0, at), 0, to + l);  // spills into the next
        }
      }
    PLAIN_LOOP for (int j = 0; j < vectors; j++) {
      VEC half_way[SIDE][SIDE], d[SIDE], o[SIDE];
      _Pragma("unroll") for (int k = 0; k < SIDE; k++) {
        _Pragma("unroll") for (int i = 0; i < SIDE; i++) d[i] = VLOAD(0, window + (i * SIDE + k) * NR + j * VW);
        TRANSFORM_IN(d, o)
        _Pragma("unroll") for (int i = 0; i < SIDE; i++) half_way[i][k] = o[i];
      }
      _Pragma("unroll") for (int i = 0; i < SIDE; i++) {
        TRANSFORM_IN(half_way[i], o)
        _Pragma("unroll") for (int k = 0; k < SIDE; k++) VSTORE(o[k], j, freq + ((i * SIDE + k) * in_channels + c) * NR);
      }
    }
  }
#endif
#if STAGE != 1
  __global const T *weights = w + tile_begin * POINTS * MR * in_channels;
  PLAIN_LOOP for (int tile = tile_begin; tile < tile_end; tile++) {
    const int m = tile * MR;
    PLAIN_LOOP for (int point = 0; point < POINTS; point++, weights += MR * in_channels) {
      EACH_WIDTH(vectors, PRODUCTS)
    }
    PLAIN_LOOP for (int i = 0; i < MR && m + i < out_channels; i++) {
#ifdef BIAS
      const VEC shift = (VEC)(bias[bias_off + (group * out_channels + m + i) * bias_stride]);
#else
      const VEC shift = (VEC)(0);
#endif
      PLAIN_LOOP for (int j = 0; j < vectors; j++) {
        VEC half_way[M][SIDE], d[SIDE], o[M];
        _Pragma("unroll") for (int k = 0; k < SIDE; k++) {
          _Pragma("unroll") for (int l = 0; l < SIDE; l++) d[l] = VLOAD(0, points + ((l * SIDE + k) * MR + i) * NR + j * VW);
          TRANSFORM_OUT(d, o)
          _Pragma("unroll") for (int n = 0; n < M; n++) half_way[n][k] = o[n];
        }
        _Pragma("unroll") for (int n = 0; n < M; n++) {
          TRANSFORM_OUT(half_way[n], o)
          T lane[M][VW];
          _Pragma("unroll") for (int k = 0; k < M; k++) o[k] += shift;
          if (!added) { CHOOSE(REPLACE, o) }
          _Pragma("unroll") for (int k = 0; k < M; k++) VSTORE(o[k], 0, lane[k]);
          _Pragma("unroll") for (int q = 0; q < VW / 4; q++) {
            __local T *to = line + (n * NR + j * VW) * M;
            const CAT(T, 4) a = vload4(q, lane[0]), b = vload4(q, lane[1]);
#if M == 4
            const CAT(T, 4) c = vload4(q, lane[2]), d = vload4(q, lane[3]);
            vstore16((CAT(T, 16))(a.s0, b.s0, c.s0, d.s0, a.s1, b.s1, c.s1, d.s1, a.s2, b.s2, c.s2, d.s2, a.s3, b.s3, c.s3, d.s3), q, to);
#else
            vstore8((CAT(T, 8))(a.s0, b.s0, a.s1, b.s1, a.s2, b.s2, a.s3, b.s3), q, to);
#endif
          }
        }
      }
      PLAIN_LOOP for (int o = top; o <= bottom; o++) {
        const int begin = max(0, o * across - first), end = min(lanes, (o + 1) * across - first);
        const int from_column = (first + begin - o * across) * M, count = min((end - begin) * M, OW - from_column);
        PLAIN_LOOP for (int n = 0; n < min(M, OH - o * M); n++) {
          __local const T *from = line + (n * NR + begin) * M;
          __global T *to = y + (m + i) * ys.s1 + (o * M + n) * ys.s3 + from_column;
          int k = 0;
          if (added) {
            __global const T *more = r + (m + i) * rs.s1 + (o * M + n) * rs.s3 + from_column;
            PLAIN_LOOP for (; k < count; k++) {
              T v = from[k] + more[k];
              CHOOSE(REPLACE_ONE, v)
              to[k] = v;
            }
          }
          PLAIN_LOOP for (; k + VW <= count; k += VW) VSTORE(VLOAD(0, from + k), 0, to + k);
          PLAIN_LOOP for (; k + 4 <= count; k += 4) vstore4(vload4(0, from + k), 0, to + k);
          PLAIN_LOOP for (; k < count; k++) to[k] = from[k];
        }
      }
    }
  }
#endif
  }
  DONE_IN_STEP
}
