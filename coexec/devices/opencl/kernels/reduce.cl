// One output element a line: the line's elements lie in a box of shape r_shape (innermost first, `count` elements in all). A is the
// type of the arithmetic. INIT, MAP(v), JOIN(a, b) and LAST(a, count) say what is computed; with SHIFT the largest finite element is
// subtracted first, and LAST knows it as `shift`. V > 1 needs r_s.s0 to be 1, and GROUP 1.

#define LARGER_(a, b) (((a) > (b)) | ((a) != (a)) ? (a) : (b))
#if V > 1
#define AV CAT(A, V)
#endif

#define EACH_(INITIAL, BINARY, EXPRESSION, VEXPRESSION, result) \
    A result = INITIAL; \
    VECTORS_(INITIAL, BINARY, VEXPRESSION, result) \
    for (int o = 0; o < rows; ++o) { \
        global const T *row = x + outer(o, r_shape, r_s); \
        for (int i = FIRST_; i < r_shape.s0; i += GROUP) { \
            const A v = CAT(convert_, A)(LOAD(T, row, i * r_s.s0)); \
            const A w = EXPRESSION; \
            result = BINARY(result, w); \
        } \
    }

#if V > 1
#define FIRST_ (r_shape.s0 / V * V)
#define VECTORS_(INITIAL, BINARY, EXPRESSION, result) \
    { \
        AV all = (AV)(INITIAL); \
        for (int o = 0; o < rows; ++o) { \
            global const T *row = x + outer(o, r_shape, r_s); \
            for (int i = 0; i + V <= r_shape.s0; i += V) { \
                const AV v = CAT(convert_, AV)(LOADS(T, V, row + i)); \
                const AV w = EXPRESSION; \
                all = BINARY(all, w); \
            } \
        } \
        A each[V]; \
        CAT(vstore, V)(all, 0, each); \
        for (int k = 0; k < V; ++k) \
            result = BINARY(result, each[k]); \
    }
#else
#define FIRST_ LANE
#define VECTORS_(INITIAL, BINARY, EXPRESSION, result)
#endif

int outer(int o, int8 shape, int8 strides)
{
    const int8 rest = (int8)(shape.s1234, shape.s567, 1), steps = (int8)(strides.s1234, strides.s567, 0);
    return place(o, rest, steps);
}

kernel void reduce(global const T *restrict x, int x_off, int8 x_s, global TY *restrict y, int y_off, int8 y_s, int8 shape,
                   int8 r_shape, int8 r_s, int rows, int count, int lines)
{
    SHARED(A, shared_)
    const int line = LINE;
    if (line >= lines)
        return;
    x += x_off + place(line, shape, x_s);
#ifdef SHIFT
    EACH_(LOWEST, LARGER_, v, v, shift)
    ACROSS(A, shared_, shift, LARGER_)
    shift = isfinite(shift) ? shift : (A)0;
#define OF_(A) MAP(A, v - (A)(shift))
#else
#define OF_(A) MAP(A, v)
#endif
    EACH_(INIT, JOIN, OF_(A), OF_(AV), total)
    ACROSS(A, shared_, total, JOIN)
    if (LANE == 0)
        STORE(TY, y, y_off + place(line, shape, y_s), LAST(total));
}

// The position of the largest element (LESS: the smallest) along a line of n elements: the first of equals, or the last (FROM_END).
// A NaN counts as the extreme.
#ifdef LESS
#define BEATS_(a, b) (((a) < (b)) | (((a) != (a)) & ((b) == (b))))
#else
#define BEATS_(a, b) (((a) > (b)) | (((a) != (a)) & ((b) == (b))))
#endif
#ifdef FROM_END
#define EARLIER_(i, j) ((i) > (j))
#else
#define EARLIER_(i, j) ((i) < (j))
#endif

kernel void argument(global const T *restrict x, int x_off, int8 x_s, int x_step, global long *restrict y, int y_off, int8 y_s,
                     int8 shape, int n, int lines)
{
#if GROUP > 1
    local int found[GROUP];
#endif
    const int line = LINE;
    if (line >= lines)
        return;
    x += x_off + place(line, shape, x_s);
    int best = LANE;
    for (int i = LANE + GROUP; i < n; i += GROUP) {
        const A v = LOAD(T, x, i * x_step), top = LOAD(T, x, best * x_step);
        if (BEATS_(v, top) || (!BEATS_(top, v) && EARLIER_(i, best)))
            best = i;
    }
#if GROUP > 1
    found[LANE] = best;
    barrier(CLK_LOCAL_MEM_FENCE);
    if (LANE == 0)
        for (int k = 1; k < GROUP; ++k) {
            const int i = found[k];
            const A v = LOAD(T, x, i * x_step), top = LOAD(T, x, best * x_step);
            if (BEATS_(v, top) || (!BEATS_(top, v) && EARLIER_(i, best)))
                best = i;
        }
#endif
    if (LANE == 0)
        y[y_off + place(line, shape, y_s)] = best;
}

// Running sums (or products) along lines of n elements; a negative step runs from the end. JOIN and INIT as above.
kernel void running(global const T *restrict x, int x_off, int8 x_s, int x_step, global T *restrict y, int y_off, int8 y_s, int y_step,
                    int8 shape, int n, int lines)
{
    const int line = get_global_id(0);
    if (line >= lines)
        return;
    x += x_off + place(line, shape, x_s);
    y += y_off + place(line, shape, y_s);
    A total = INIT;
    for (int i = 0; i < n; ++i) {
        const A v = CAT(convert_, A)(LOAD(T, x, i * x_step));
#ifdef EXCLUSIVE
        STORE(T, y, i * y_step, total);
        total = JOIN(total, v);
#else
        total = JOIN(total, v);
        STORE(T, y, i * y_step, total);
#endif
    }
}
