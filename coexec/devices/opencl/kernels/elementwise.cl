// y = EXPR of any number of operands, broadcast by strides of 0. The builder defines POINTERS (the operands'), OPERANDS(V) (their numbers, and extra
// scalars), SETUP (declares r0, r1, ..., each operand's row), LOAD_SCALAR and LOAD_VECTOR (declare a0, a1, ... at index i), EXPR(T, I) over them and
// RESULT(T, I), its type, TY and T (the output's elements in memory, and what is computed in), I (integer as wide as T), V (vector
// width, 1 for strided rows), FINISH(T, I, v), STORE_SCALAR(v) and STORE_VECTOR(v) (at row, i).

#if V > 1
#define TV CAT(T, V)
#define IV CAT(I, V)
#endif

#define NUMBERS(V) OPERANDS(V) V(int, y_off) V(int8, y_s) V(int8, shape) V(int, chunk) V(int, span)

IN_A_STRUCT(elementwise_numbers)

kernel void elementwise(POINTERS global TY *restrict y ALL_NUMBERS(elementwise_numbers))
{
    BEGIN_IN_STEP
    ND_OUTER(shape)
    const int start = get_global_id(0) * chunk, end = min(start + chunk, shape.s0);
    ND_ROWS(shape, span)
    {
        global TY *row = y + y_off + ND_OFFSET(y_s);
        SETUP
        int i = start;
#if V > 1
        for (; i + V <= end; i += V) {
            LOAD_VECTOR
            const RESULT(TV, IV) v = EXPR(TV, IV);
            STORE_VECTOR(FINISH(TV, IV, v))
        }
#endif
        for (; i < end; ++i) {
            LOAD_SCALAR
            const RESULT(T, I) v = EXPR(T, I);
            STORE_SCALAR(FINISH(T, I, v))
        }
    }
    END_IN_STEP
}
