// y = the weighted sum of x over the taps of every axis with a table; the other axes are read straight. For dimension k with bit k of
// MASK: index[(place_k + i) * TAPS_k + t] and weight[...] (both of all axes one after the other), index -1 in tap 0 for outside.
// A is the type of the sum; LIMITED rounds it, halves to even, and clips it to T's range. Up to four dimensions, innermost first.

#define AXIS_(k, i, at_body) \
    for (int t##k = 0; t##k < TAPS##k; ++t##k) { \
        const int tap##k = first.s##k + (i) * TAPS##k + t##k; \
        const int from##k = index[tap##k]; \
        outside |= from##k < 0; \
        const A w##k = weight[tap##k]; \
        at_body \
    }

kernel void resize(global const T *restrict x, int x_off, int8 x_s, global T *restrict y, int y_off, int8 y_s, int8 shape,
                   int chunk, int span, global const int *restrict index, int index_off, global const A *restrict weight, int weight_off,
                   int8 first, A other)
{
    ND_OUTER(shape)
    x += x_off;
    index += index_off;
    weight += weight_off;
    const int start = get_global_id(0) * chunk, end = min(start + chunk, shape.s0);
    ND_ROWS(shape, span)
    {
        global T *row = y + y_off + ND_OFFSET(y_s);
        for (int i = start; i < end; ++i) {
            A total = 0;
            int outside = 0;
            LOOPS
            const A v = outside ? other : total;
#ifdef LIMITED
            row[i * y_s.s0] = CAT(CAT(convert_, T), _sat_rte)(v);
#else
            STORE(T, row, i * y_s.s0, v);
#endif
        }
    }
}
