// y[o] = x[map(o)], or `value` where map leaves x. Coordinates: o + begin counts from x's first element; `extent` is the shape of
// what the map sees, `first` the coordinate of the window's first element, `held` the window's shape. WRAP, EDGE or REFLECT choose
// the map, else the value is taken. Rows are walked as in elementwise.cl; every dimension of a bit in MASK is mapped, the others
// read straight; MOVES is MOVE_(1, i1) and so on for the dimensions there are.

#if defined(WRAP)
#define MAP_(at, n) (((at) % (n) + (n)) % (n))
#elif defined(EDGE)
#define MAP_(at, n) clamp(at, 0, (n) - 1)
#elif defined(REFLECT)
int reflected(int at, int n)
{
    const int period = 2 * n - 2;
    if (period == 0)
        return 0;
    at = (at % period + period) % period;
    return at < n ? at : period - at;
}
#define MAP_(at, n) reflected(at, n)
#else
#define MAP_(at, n) (at)
#endif

#define MOVE_(k, i) \
    if (MASK & (1 << k)) { \
        const int at = MAP_((i) + begin.s##k, extent.s##k); \
        inside &= (at >= 0) & (at < extent.s##k) & (at >= first.s##k) & (at < first.s##k + held.s##k); \
        from += (at - first.s##k) * x_s.s##k; \
    } else \
        from += (i) * x_s.s##k;

// y[i] = x[i] for i in low .. high - 1; returns high.
int copied(global const T *x, int x_step, global T *y, int y_step, int low, int high)
{
    int i = low;
    if (x_step == 1 && y_step == 1)
        for (; i + 16 <= high; i += 16)
            vstore16(vload16(0, x + i), 0, y + i);
    for (; i < high; ++i)
        y[i * y_step] = x[i * x_step];
    return i;
}

#ifdef VALUE
#define VALUE_ARG , global const T *restrict value
#define VALUE_NUMBERS(V) V(int, value_off)
#else
#define VALUE_ARG
#define VALUE_NUMBERS(V)
#endif
#define NUMBERS(V) V(int, x_off) V(int8, x_s) V(int, y_off) V(int8, y_s) V(int8, shape) V(int, chunk) V(int, span) V(int8, begin) \
  V(int8, extent) V(int8, first) V(int8, held) VALUE_NUMBERS(V)

IN_A_STRUCT(pad_numbers)

kernel void pad(global const T *restrict x, global T *restrict y VALUE_ARG ALL_NUMBERS(pad_numbers))
{
    BEGIN_IN_STEP
    ND_OUTER(shape)
    const int start = get_global_id(0) * chunk, end = min(start + chunk, shape.s0);
    x += x_off;
#ifdef VALUE
    const T other = value[value_off];
#else
    const T other = 0;
#endif
    ND_ROWS(shape, span)
    {
        global T *row = y + y_off + ND_OFFSET(y_s);
        int begun = 0, outside = 0;
        {
            int from = 0, inside = 1;
            MOVES
            begun = from;
            outside = !inside;
        }
#if MASK & 1
        // What the map leaves in place is copied; only the ends of a row are mapped one by one.
        const int low = outside ? end : clamp(max(0, first.s0) - begin.s0, start, end);
        const int high = outside ? end : clamp(min(extent.s0, first.s0 + held.s0) - begin.s0, low, end);
        global const T *straight = x + begun + (begin.s0 - first.s0) * x_s.s0;
#else
        const int low = outside ? end : start, high = end;
        global const T *straight = x + begun;
#endif
        for (int i = start; i < end; ++i) {
            if (i == low)
                i = copied(straight, x_s.s0, row, y_s.s0, low, high);
            if (i == end)
                break;
            int from = begun, inside = !outside;
            MOVE_(0, i)
            T v = other;
            if (inside)
                v = x[from];
            row[i * y_s.s0] = v;
        }
    }
    END_IN_STEP
}
