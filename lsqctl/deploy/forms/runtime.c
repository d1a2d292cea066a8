static int lsq_code(float x, float step, float offset, int low, int high)
{
    volatile float moved = x - offset; /* volatile: no two operations are fused into one */
    float code = moved / step;
    volatile float shifted;
    if (!(code > (float)low))
        return low;
    if (code > (float)high)
        return high;
    shifted = code + 12582912.0f; /* 1.5 * 2^23: the sum is rounded to a whole number, ties to even */
    return (int)(shifted - 12582912.0f);
}

/* next */
static void lsq_quantize(const float *x, float *y, int n, float step, float offset, int low, int high)
{
    int i;
    for (i = 0; i < n; i++) {
        volatile float scaled = (float)lsq_code(x[i], step, offset, low, high) * step;
        y[i] = scaled + offset;
    }
}

/* next */
typedef struct {
    const unsigned char *weights; /* codes of `bits` bits, the lowest bit first */
    const float *scale, *shift;
    float step, offset;
    short per_group, in_height, in_width, channels, height, width, out_per_group;
    short kernel_height, kernel_width, stride_y, stride_x, top, left, dilation_y, dilation_x;
    short low, high, zero, bits;
} lsq_layer;

static void lsq_unpack(const lsq_layer *l, int channel, int n)
{
    int i;
    for (i = 0; i < n; i++) {
        const uint32_t bit = ((uint32_t)channel * (uint32_t)n + (uint32_t)i) * (uint32_t)l->bits;
        const unsigned char *at = l->weights + (bit >> 3);
        const int whole = at[0] | at[1] << 8;
        const int code = whole >> (bit & 7) & ((1 << l->bits) - 1);
        lsq_weights[i] = (signed char)(code >> (l->bits - 1) ? code - (1 << l->bits) : code);
    }
}

static void lsq_layer_run(const lsq_layer *l, const float *x, float *y)
{
    const int area = l->in_height * l->in_width;
    const int n_codes = l->channels / l->out_per_group * l->per_group * area;
    int i, o, r, c, ky, kx;
    for (i = 0; i < n_codes; i++)
        lsq_codes[i] = (unsigned char)(lsq_code(x[i], l->step, l->offset, l->low, l->high) - l->low);
    for (o = 0; o < l->channels; o++) {
        const unsigned char *group = lsq_codes + o / l->out_per_group * l->per_group * area;
        lsq_unpack(l, o, l->per_group * l->kernel_height * l->kernel_width);
        for (r = 0; r < l->height; r++)
            for (c = 0; c < l->width; c++) {
                const signed char *w = lsq_weights;
                int32_t sum = 0;
                volatile float scaled;
                for (i = 0; i < l->per_group; i++)
                    for (ky = 0; ky < l->kernel_height; ky++)
                        for (kx = 0; kx < l->kernel_width; kx++) {
                            const int row = r * l->stride_y + ky * l->dilation_y - l->top;
                            const int column = c * l->stride_x + kx * l->dilation_x - l->left;
                            const int inside = row >= 0 && row < l->in_height && column >= 0 &&
                                               column < l->in_width;
                            const int code = inside ? group[i * area + row * l->in_width + column] +
                                                          l->low : l->zero;
                            sum += code * *w++;
                        }
                scaled = (float)sum * l->scale[o];
                *y++ = scaled + l->shift[o];
            }
    }
}

/* next */
static void lsq_binary(char kind, const float *x, const float *other, float *y, int n, int area, int m)
{
    int i;
    for (i = 0; i < n; i++) {
        const float b = other[i / area % m];
        y[i] = kind == 'a' ? x[i] + b : kind == 's' ? x[i] - b : kind == 'm' ? x[i] * b : x[i] / b;
    }
}

/* next */
static void lsq_clamp(const float *x, float *y, int n, float low, float high)
{
    int i;
    for (i = 0; i < n; i++)
        y[i] = x[i] < low ? low : x[i] > high ? high : x[i];
}

/* next */
static void lsq_pool(const float *x, float *y, const short *p)
{
    const short is_mean = p[0], channels = p[1], in_height = p[2], in_width = p[3];
    int o, r, c, ky, kx;
    for (o = 0; o < channels; o++, x += in_height * in_width)
        for (r = 0; r < p[4]; r++)
            for (c = 0; c < p[5]; c++) {
                float best = is_mean ? 0.0f : -FLT_MAX;
                for (ky = 0; ky < p[6]; ky++)
                    for (kx = 0; kx < p[7]; kx++) {
                        const int row = r * p[8] + ky * p[12] - p[10];
                        const int column = c * p[9] + kx * p[13] - p[11];
                        float one;
                        if (row < 0 || row >= in_height || column < 0 || column >= in_width)
                            continue;
                        one = x[row * in_width + column];
                        best = is_mean ? best + one : one > best ? one : best;
                    }
                *y++ = is_mean ? best / (float)(p[6] * p[7]) : best;
            }
}

/* next */
static void lsq_slice(const float *x, float *y, const short *p)
{
    int o, r, c;
    for (o = 0; o < p[3]; o++)
        for (r = 0; r < p[4]; r++)
            for (c = 0; c < p[5]; c++)
                *y++ = x[((p[6] + o * p[9]) * p[1] + p[7] + r * p[10]) * p[2] + p[8] + c * p[11]];
}

/* next */
static void lsq_pad(const float *x, float *y, const short *p)
{
    int o, r, c;
    for (o = -p[6]; o < p[3] - p[6]; o++)
        for (r = -p[7]; r < p[4] - p[7]; r++)
            for (c = -p[8]; c < p[5] - p[8]; c++) {
                const int inside = o >= 0 && o < p[0] && r >= 0 && r < p[1] && c >= 0 && c < p[2];
                *y++ = inside ? x[(o * p[1] + r) * p[2] + c] : 0.0f;
            }
}

/* next */
static void lsq_copy(const float *x, float *y, int n)
{
    int i;
    for (i = 0; i < n; i++)
        y[i] = x[i];
}
