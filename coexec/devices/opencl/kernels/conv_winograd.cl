// 3x3 convolution of stride 1 by Winograd's F(M x M, 3 x 3): 36 multiplications make 4 x 4 outputs, where 144 would do it directly; 16 make 2 x 2.
//
// One work-item owns a core and makes NR tiles of M x M outputs for every output channel, a tile a vector lane. All between the input
// and the output stays in local memory, which such devices keep in cache:
// strip (one channel's rows with padding, columns sorted by index modulo M) -> SIDE x SIDE vectors -> freq [POINTS][in channel][NR];
// then per MR output channels: POINTS matrix products -> points [POINTS][MR][NR] -> line (M rows of outputs in order) -> y.
// Weights come transformed, [group][channel tile][POINTS][in channel][MR].
//
// Larger kernels of up to 8x8 are 4x4 blocks (BLOCKS is 4, not 1), each by F(4 x 4, 4 x 4), added up before the transform back. Blocks are as far apart
// as tiles, so that a tile as one block needs it is its neighbour's: lanes run over one tile more in each row (`wide`), and freq holds as many more.
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

#define SPARE (VW > 16 / M ? VW : 16 / M)  // what may be written beyond a row's columns of one index modulo M
#define SIDE (BLOCKS > 1 ? M + 3 : M + 2)
#define POINTS (SIDE * SIDE)

// o = B' d, o = A' m
#if BLOCKS > 1
#define TRANSFORM_IN(d, o)                                                                             \
  o[0] = d[5] - 0.5f * d[4] - 5 * d[3] + 2.5f * d[2] + 4 * d[1] - 2 * d[0];                            \
  o[1] = d[5] + 0.5f * d[4] - 4.5f * d[3] - 2 * d[2] + 2 * d[1];                                       \
  o[2] = d[5] - 1.5f * d[4] - 3.5f * d[3] + 6 * d[2] - 2 * d[1];                                       \
  o[3] = d[5] + 1.5f * d[4] - 2 * d[3] - 1.5f * d[2] + d[1];                                           \
  o[4] = d[5] - 2.5f * d[4] + 2.5f * d[2] - d[1];                                                      \
  o[5] = d[5] - 5 * d[3] + 4 * d[1];                                                                   \
  o[6] = d[6] - 0.5f * d[5] - 5 * d[4] + 2.5f * d[3] + 4 * d[2] - 2 * d[1];
#define TRANSFORM_OUT(m, o)                                                                            \
  o[0] = m[0] + (m[1] + m[2]) + (m[3] + m[4]) + m[5];                                                  \
  o[1] = (m[1] - m[2]) + 2 * (m[3] - m[4]) + 0.5f * m[5];                                              \
  o[2] = (m[1] + m[2]) + 4 * (m[3] + m[4]) + 0.25f * m[5];                                             \
  o[3] = (m[1] - m[2]) + 8 * (m[3] - m[4]) + 0.125f * m[5] + m[6];
#elif M == 4
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

#if BLOCKS > 1
#define RUN(V)                                                                                         \
  PLAIN_LOOP for (int block = 0; block < BLOCKS; block++)                                              \
    TILE_RUN(acc, V, weights + block * MR * in_channels, 1, MR, freq + point * plane + (block >> 1) * wide + (block & 1), pitch, in_channels, AHEAD)
#else
#define RUN(V) TILE_RUN(acc, V, weights, 1, MR, freq + point * plane, V * VW, in_channels, AHEAD)
#endif

#define PRODUCTS(V) {                                                                                  \
  VEC acc[MR][V];                                                                                      \
  TILE_CLEAR(acc, V)                                                                                   \
  RUN(V)                                                                                               \
  FOR_TILE(V) VSTORE(acc[i][j], j, points + (point * MR + i) * NR);                                    \
}

#if STAGE == 0
#define FREQ_NUMBERS(V)
#else
#define FREQ_NUMBERS(V) V(int, freqs_off)
#endif
#define NUMBERS(V)                                                                                                                     \
  V(int, x_off) V(int8, xs) V(int, w_off) V(int, y_off) V(int8, ys) V(int, groups) V(int, in_channels) V(int, out_channels)            \
  V(int8, in) V(int8, out) V(int8, pad) FREQ_NUMBERS(V) BIAS_NUMBERS(V) V(int, r_off) V(int8, rs) V(int, added) LATE_NUMBERS(V)

typedef CAT(T, 16) loose16 __attribute__((aligned(sizeof(T))));
#if M == 4
typedef CAT(T, 4) loose_part __attribute__((aligned(sizeof(T))));
#else
typedef CAT(T, 8) loose_part __attribute__((aligned(sizeof(T))));
#endif

// Sixteen columns of a row of the input, from `column` on, zero outside 0 .. W - 1, sorted by index modulo M: to cells, and `phase` further each.
// x[at] is the row's first element, x[held - 1] the last that may be read.
static void sort_columns(__global const T *x, int at, int held, int column, int W, int phase, __local T *cells) {
  CAT(T, 16) v;
  if (at + column >= 0 && at + column + 16 <= held) {
    v = *(__global const loose16 *)(x + at + column);
    if (column < 0 || column + 16 > W) {
      const int16 here = (int16)(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15) + column;
      v = here >= 0 && here < W ? v : (CAT(T, 16))(0);
    }
  } else {
    T lane[16];
    PLAIN_LOOP for (int l = 0; l < 16; l++) lane[l] = column + l >= 0 && column + l < W ? x[at + column + l] : 0;
    v = vload16(0, lane);
  }
#if M == 4
  const CAT(T, 16) sorted = v.s048c159d26ae37bf;
  *(__local loose_part *)cells = sorted.s0123;
  *(__local loose_part *)(cells + phase) = sorted.s4567;
  *(__local loose_part *)(cells + 2 * phase) = sorted.s89ab;
  *(__local loose_part *)(cells + 3 * phase) = sorted.scdef;
#else
  *(__local loose_part *)cells = v.even;
  *(__local loose_part *)(cells + phase) = v.odd;
#endif
}

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
  const int across = (OW + M - 1) / M, wide = BLOCKS > 1 ? across + 1 : across, tiles = wide * ((OH + M - 1) / M);
  const int batch = get_global_id(1) / groups, group = get_global_id(1) % groups;
  const int panels = (tiles + NR - 1) / NR, channel_tiles = (out_channels + MR - 1) / MR;
#if STAGE == 2
  const int panel_begin = 0, panel_end = panels, tile_begin = get_global_id(0), tile_end = tile_begin + 1;
#else
  const int panel_begin = get_global_id(0), panel_end = panel_begin + 1, tile_begin = 0, tile_end = channel_tiles;
#endif
  x += x_off + batch * xs.s0 + group * in_channels * xs.s1;
  w += w_off + group * channel_tiles * MR * POINTS * BLOCKS * in_channels;
  y += y_off + batch * ys.s0 + group * out_channels * ys.s1;
  r += r_off + batch * rs.s0 + group * out_channels * rs.s1;
  const int held = (in_channels - 1) * xs.s1 + (H - 1) * xs.s3 + W;  // elements from a group's first to its last
  PLAIN_LOOP for (int panel = panel_begin; panel < panel_end; panel++) {
  const int first = panel * NR, lanes = min(NR, tiles - first), vectors = (lanes + VW - 1) / VW;
  // Lanes of the input, and of it as it lies in freq; a plane is a point's: the odd vector keeps points out of one another's cache sets.
  const int more = BLOCKS > 1 ? wide + 1 : 0, held_lanes = BLOCKS > 1 ? min(lanes + more, tiles + wide - first) : lanes;
  const int pitch = (EACH_VECTORS(vectors) * VW + more + VW - 1) / VW * VW;
  const int plane = in_channels * pitch + VW;
  const int top = first / wide, bottom = (first + lanes - 1) / wide, below = (first + held_lanes - 1) / wide;
  const int left = top == below ? first - top * wide : 0, right = top == below ? left + held_lanes : wide;
  const int used = right - left + 1, phase = used + SPARE, strip_row = M * phase, strip_rows = (below - top) * M + SIDE;
  const int column = left * M - pad.s2, row = top * M - pad.s1;
#if STAGE != 0
  __global T *freq = freqs + freqs_off + (get_global_id(1) * panels + panel) * POINTS * (in_channels * ((NR + more + VW - 1) / VW * VW) + VW);
#endif
#if STAGE != 2
  PLAIN_LOOP for (int c = 0; c < in_channels; c++) {
    PLAIN_LOOP for (int s = 0; s < strip_rows; s++) {
      const int h = row + s;
      __local T *cells = strip + s * strip_row;
      if (h < 0 || h >= H) {
        PLAIN_LOOP for (int p = 0; p < M; p++)
          PLAIN_LOOP for (int i = 0; i < used; i += VW) VSTORE((VEC)(0), 0, cells + p * phase + i);
        continue;
      }
      PLAIN_LOOP for (int i = 0; i < used; i += 16 / M) sort_columns(x, c * xs.s1 + h * xs.s3, held, column + M * i, W, phase, cells + i);
    }
    PLAIN_LOOP for (int j = 0; j * VW < held_lanes; j++) {
      // A lane's tile begins in the last row of tiles whose first lane is not beyond it.
      const int here = first + j * VW, o_begin = here / wide, o_end = min(below, (here + VW - 1) / wide);
      VEC half_way[SIDE][SIDE], d[SIDE], o[SIDE];
      _Pragma("unroll") for (int k = 0; k < SIDE; k++) {
        __local const T *tap = strip + (o_begin - top) * M * strip_row + k % M * phase + k / M + here - o_begin * wide - left;
        _Pragma("unroll") for (int i = 0; i < SIDE; i++) d[i] = VLOAD(0, tap + i * strip_row);
        PLAIN_LOOP for (int next = o_begin + 1; next <= o_end; next++) {
          tap += M * strip_row - wide;
          const LANES beyond = LANE_NUMBERS >= next * wide - here;
          _Pragma("unroll") for (int i = 0; i < SIDE; i++) d[i] = beyond ? VLOAD(0, tap + i * strip_row) : d[i];
        }
        TRANSFORM_IN(d, o)
        _Pragma("unroll") for (int i = 0; i < SIDE; i++) half_way[i][k] = o[i];
      }
      _Pragma("unroll") for (int i = 0; i < SIDE; i++) {
        TRANSFORM_IN(half_way[i], o)
        _Pragma("unroll") for (int k = 0; k < SIDE; k++) VSTORE(o[k], j, freq + (i * SIDE + k) * plane + c * pitch);
      }
    }
  }
#endif
#if STAGE != 1
  __global const T *weights = w + tile_begin * POINTS * BLOCKS * MR * in_channels;
  PLAIN_LOOP for (int tile = tile_begin; tile < tile_end; tile++) {
    const int m = tile * MR;
    PLAIN_LOOP for (int point = 0; point < POINTS; point++, weights += BLOCKS * MR * in_channels) {
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
        const int begin = max(0, o * wide - first), end = min(lanes, o * wide + across - first);
        const int from_column = (first + begin - o * wide) * M, count = min((end - begin) * M, OW - from_column);
        PLAIN_LOOP for (int n = 0; n < min(M, OH - o * M) && begin < end; n++) {
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
