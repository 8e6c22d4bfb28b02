// Copies element number n of one box to element number n of another, both counted in row-major order. Shapes innermost first.

kernel void relayout(global const T *restrict x, int x_off, int8 x_shape, int8 x_s, global T *restrict y, int y_off, int8 y_shape,
                     int8 y_s, int count)
{
    const int n = get_global_id(0);
    if (n >= count)
        return;
    y[y_off + place(n, y_shape, y_s)] = x[x_off + place(n, x_shape, x_s)];
}
