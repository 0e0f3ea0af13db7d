// Batch normalization of a channels-last tensor, with the addition of a shortcut and ReLU in the
// same pass over memory: y = relu((x - mean) / std * weight + bias + shortcut).
//
// A tensor is [rows, C]: a row is one pixel of one image. Rows are summed in blocks whose size
// depends on C alone, and the blocks are added up in their order, so results do not depend on the
// number of threads. Values are float32 or bfloat16 in memory and float32 in registers; sums over
// blocks are float64.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

constexpr int64_t WIDTH = 16;           // channels of a register; C is a multiple of it
constexpr int64_t BLOCK_VALUES = 8192;  // of a block: it stays in the first-level cache

using Floats = float __attribute__((vector_size(WIDTH * sizeof(float))));
using Words = uint32_t __attribute__((vector_size(WIDTH * sizeof(uint32_t))));
using Halves = uint16_t __attribute__((vector_size(WIDTH * sizeof(uint16_t))));

struct bfloat16 {
  uint16_t bits;
};

template <class Vector>
Vector read(const void* from) {
  Vector values;
  std::memcpy(&values, from, sizeof values);
  return values;
}

inline Floats load(const float* from) { return read<Floats>(from); }

inline Floats load(const bfloat16* from) {
  return reinterpret_cast<Floats>(__builtin_convertvector(read<Halves>(from), Words) << 16);
}

inline void store(float* to, Floats values) { std::memcpy(to, &values, sizeof values); }

inline void store(bfloat16* to, Floats values) {  // to the nearest, ties to even
#ifdef __AVX512BF16__
  const auto halves = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(values));
#else
  const Words bits = reinterpret_cast<Words>(values);
  const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Words quiet_nan = (bits >> 16) | 0x40u;
  const auto halves = __builtin_convertvector(values == values ? rounded : quiet_nan, Halves);
#endif
  std::memcpy(to, &halves, sizeof halves);
}

int64_t block_rows(int64_t channels) { return std::max<int64_t>(1, BLOCK_VALUES / channels); }

int64_t count_blocks(int64_t rows, int64_t channels) {
  return (rows + block_rows(channels) - 1) / block_rows(channels);
}

// Calls work(first row, last row + 1, number) for each block of rows, in parallel.
template <class Work>
void for_blocks(int64_t rows, int64_t channels, Work work) {
  const int64_t size = block_rows(channels), count = count_blocks(rows, channels);
#pragma omp parallel for schedule(static)
  for (int64_t block = 0; block < count; ++block)
    work(block * size, std::min(rows, (block + 1) * size), block);
}

// Two sums for each channel; term(position, channel, a, b) adds WIDTH values to each of them.
template <class Term>
void reduce(int64_t rows, int64_t channels, double* first, double* second, Term term) {
  const int64_t blocks = count_blocks(rows, channels);
  std::vector<float> partial(2 * blocks * channels);
  for_blocks(rows, channels, [&](int64_t begin, int64_t end, int64_t block) {
    float* sums = partial.data() + 2 * block * channels;
    for (int64_t channel = 0; channel < channels; channel += WIDTH) {
      Floats a = {}, b = {};
      for (int64_t row = begin; row < end; ++row) term(row * channels + channel, channel, a, b);
      store(sums + channel, a);
      store(sums + channels + channel, b);
    }
  });
  std::fill(first, first + channels, 0.0);
  std::fill(second, second + channels, 0.0);
  for (int64_t block = 0; block < blocks; ++block) {
    const float* sums = partial.data() + 2 * block * channels;
    for (int64_t channel = 0; channel < channels; ++channel) {
      first[channel] += sums[channel];
      second[channel] += sums[channels + channel];
    }
  }
}

// Calls each(position, channel) for every WIDTH values.
template <class Each>
void map(int64_t rows, int64_t channels, Each each) {
  for_blocks(rows, channels, [=](int64_t begin, int64_t end, int64_t) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t channel = 0; channel < channels; channel += WIDTH)
        each(row * channels + channel, channel);
  });
}

template <class T>
void measure(const T* x, int64_t rows, int64_t channels, float* mean, float* variance) {
  std::vector<float> origin(channels);  // near the values: sums of squares then lose no digits
  for (int64_t channel = 0; channel < channels; channel += WIDTH)
    store(origin.data() + channel, load(x + channel));
  std::vector<double> sum(channels), squares(channels);
  const float* from = origin.data();
  reduce(rows, channels, sum.data(), squares.data(),
         [=](int64_t at, int64_t channel, Floats& a, Floats& b) {
           const Floats value = load(x + at) - load(from + channel);
           a += value;
           b += value * value;
         });
  for (int64_t channel = 0; channel < channels; ++channel) {
    const double shift = sum[channel] / rows;
    mean[channel] = static_cast<float>(from[channel] + shift);
    variance[channel] = static_cast<float>(std::max(0.0, squares[channel] / rows - shift * shift));
  }
}

template <class T, bool ADD, bool RELU>
void apply(const T* x, const T* shortcut, T* y, int64_t rows, int64_t channels,
           const float* scale, const float* shift) {
  map(rows, channels, [=](int64_t at, int64_t channel) {
    Floats value = load(x + at) * load(scale + channel) + load(shift + channel);
    if (ADD) value += load(shortcut + at);
    if (RELU) value = value < 0.0f ? Floats{} : value;  // keeps NaN
    store(y + at, value);
  });
}

// The gradient where ReLU is active.
template <class T, bool RELU>
inline Floats passed(const T* grad_y, const T* y, int64_t at) {
  const Floats gradient = load(grad_y + at);
  if (!RELU) return gradient;
  return load(y + at) > 0.0f ? gradient : Floats{};
}

template <class T, bool ADD, bool RELU>
void differentiate(const T* grad_y, const T* x, const T* y, T* grad_x, T* grad_shortcut,
                   int64_t rows, int64_t channels, const float* mean, const float* inverse_std,
                   const float* weight, float* grad_weight, float* grad_bias) {
  std::vector<double> sum(channels), product(channels);
  reduce(rows, channels, sum.data(), product.data(),
         [=](int64_t at, int64_t channel, Floats& a, Floats& b) {
           const Floats gradient = passed<T, RELU>(grad_y, y, at);
           a += gradient;
           b += gradient * (load(x + at) - load(mean + channel));
         });
  // grad_x = (g - mean(g) - z mean(g z)) weight / std, with z = (x - mean) / std
  std::vector<float> scale(channels), slope(channels), offset(channels);
  for (int64_t channel = 0; channel < channels; ++channel) {
    const double inverse = inverse_std[channel], factor = weight[channel] * inverse;
    grad_weight[channel] = static_cast<float>(product[channel] * inverse);
    grad_bias[channel] = static_cast<float>(sum[channel]);
    scale[channel] = static_cast<float>(factor);
    slope[channel] = static_cast<float>(-factor * inverse * inverse * product[channel] / rows);
    offset[channel] = static_cast<float>(-factor * sum[channel] / rows);
  }
  const float *a = scale.data(), *b = slope.data(), *c = offset.data();
  map(rows, channels, [=](int64_t at, int64_t channel) {
    const Floats gradient = passed<T, RELU>(grad_y, y, at);
    const Floats centered = load(x + at) - load(mean + channel);
    if (ADD) store(grad_shortcut + at, gradient);
    store(grad_x + at,
          gradient * load(a + channel) + centered * load(b + channel) + load(c + channel));
  });
}

template <class T>
void choose_apply(const void* x, const void* shortcut, void* y, int64_t rows, int64_t channels,
                  const float* scale, const float* shift, bool relu) {
  const auto chosen = shortcut ? (relu ? apply<T, true, true> : apply<T, true, false>)
                               : (relu ? apply<T, false, true> : apply<T, false, false>);
  chosen(static_cast<const T*>(x), static_cast<const T*>(shortcut), static_cast<T*>(y), rows,
         channels, scale, shift);
}

template <class T>
void choose_differentiate(const void* grad_y, const void* x, const void* y, void* grad_x,
                          void* grad_shortcut, int64_t rows, int64_t channels, const float* mean,
                          const float* inverse_std, const float* weight, float* grad_weight,
                          float* grad_bias, bool relu) {
  const auto chosen =
      grad_shortcut ? (relu ? differentiate<T, true, true> : differentiate<T, true, false>)
                    : (relu ? differentiate<T, false, true> : differentiate<T, false, false>);
  chosen(static_cast<const T*>(grad_y), static_cast<const T*>(x), static_cast<const T*>(y),
         static_cast<T*>(grad_x), static_cast<T*>(grad_shortcut), rows, channels, mean,
         inverse_std, weight, grad_weight, grad_bias);
}

}  // namespace

extern "C" {

// Mean and biased variance of each channel.
void measure_channels(int is_bfloat16, const void* x, int64_t rows, int64_t channels, float* mean,
                      float* variance) {
  if (is_bfloat16)
    measure(static_cast<const bfloat16*>(x), rows, channels, mean, variance);
  else
    measure(static_cast<const float*>(x), rows, channels, mean, variance);
}

// y = relu(x * scale + shift + shortcut); a null shortcut is not added.
void apply_channels(int is_bfloat16, const void* x, const void* shortcut, void* y, int64_t rows,
                    int64_t channels, const float* scale, const float* shift, int relu) {
  const auto chosen = is_bfloat16 ? choose_apply<bfloat16> : choose_apply<float>;
  chosen(x, shortcut, y, rows, channels, scale, shift, relu != 0);
}

// Gradients of x, the shortcut (if not null), weight and bias.
void differentiate_channels(int is_bfloat16, const void* grad_y, const void* x, const void* y,
                            void* grad_x, void* grad_shortcut, int64_t rows, int64_t channels,
                            const float* mean, const float* inverse_std, const float* weight,
                            float* grad_weight, float* grad_bias, int relu) {
  const auto chosen = is_bfloat16 ? choose_differentiate<bfloat16> : choose_differentiate<float>;
  chosen(grad_y, x, y, grad_x, grad_shortcut, rows, channels, mean, inverse_std, weight,
         grad_weight, grad_bias, relu != 0);
}

}  // extern "C"
