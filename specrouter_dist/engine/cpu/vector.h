// Sixteen floats at a time. The compiler lowers them to what the CPU has.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace specrouter {

constexpr int kLanes = 16;

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
typedef float Unaligned __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(kLanes * sizeof(int32_t))));
typedef int32_t UnalignedInts
    __attribute__((vector_size(kLanes * sizeof(int32_t)), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(kLanes * sizeof(uint32_t))));
typedef uint16_t UnalignedShorts
    __attribute__((vector_size(kLanes * sizeof(uint16_t)), aligned(2), may_alias));
typedef int16_t Shorts __attribute__((vector_size(kLanes * sizeof(int16_t))));

const Ints kLane{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

inline Vector load(const float* from) { return *reinterpret_cast<const Unaligned*>(from); }
inline Ints load(const int32_t* from) { return *reinterpret_cast<const UnalignedInts*>(from); }
inline void store(float* to, Vector value) { *reinterpret_cast<Unaligned*>(to) = value; }
inline Vector broadcast(float value) { return value - Vector{}; }

template <typename To, typename From>
inline To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// The upper half of a float's bits.
struct BFloat16 {
  uint16_t bits;

  BFloat16() = default;
  // To the nearest, of two as near to the even one.
  explicit BFloat16(float value) {
    const uint32_t exact = bits_as<uint32_t>(value);
    bits = value == value ? (exact + 0x7fff + (exact >> 16 & 1)) >> 16 : 0x7fc0;
  }
  explicit operator float() const { return bits_as<float>(static_cast<uint32_t>(bits) << 16); }
};

inline Vector load(const BFloat16* from) {
  const auto bits = *reinterpret_cast<const UnalignedShorts*>(from);
  return bits_as<Vector>(__builtin_convertvector(bits, Words) << 16);
}

// By the registers that they will be in: `= {}` is a call of memset.
template <typename Numbers, int Rows, int Vectors>
inline void clear(Numbers (&sums)[Rows][Vectors]) {
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vectors; ++v) sums[r][v] = Numbers{};
}

// To each lane the products of its two pairs of 16-bit whole numbers.
inline void add_products(Ints& sums, const Ints& a, const Ints& b) {
#if defined(__AVX512VNNI__)
  sums = bits_as<Ints>(
      _mm512_dpwssd_epi32(bits_as<__m512i>(sums), bits_as<__m512i>(a), bits_as<__m512i>(b)));
#elif defined(__AVX512BW__)
  sums += bits_as<Ints>(_mm512_madd_epi16(bits_as<__m512i>(a), bits_as<__m512i>(b)));
#elif defined(__AVX2__)
  // In halves, as they lie in memory: the compiler takes them apart at a far higher price.
  __m256i* halves = reinterpret_cast<__m256i*>(&sums);
  for (int i = 0; i < 2; ++i)
    halves[i] =
        _mm256_add_epi32(halves[i], _mm256_madd_epi16(reinterpret_cast<const __m256i*>(&a)[i],
                                                      reinterpret_cast<const __m256i*>(&b)[i]));
#else
  sums += ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
#endif
}

// Neighbours added: eight sums of `a`, then eight of `b`.
inline Vector add_pairs(Vector a, Vector b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
         __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

inline float sum(Vector v) {
  for (int step = 0; step < 4; ++step) v = add_pairs(v, v);
  return v[0];
}

// Of floats or whole numbers.
template <typename Numbers>
inline auto greatest(Numbers v) {
  const auto fold = [&](Numbers other) { v = other > v ? other : v; };
  fold(__builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
  fold(__builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
  fold(__builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
  fold(__builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
  return v[0];
}

// Which lanes are not 0, as bits.
inline unsigned bits_of(Ints v) {
#ifdef __AVX512F__
  return _mm512_test_epi32_mask(reinterpret_cast<__m512i>(v), reinterpret_cast<__m512i>(v));
#else
  unsigned bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= static_cast<unsigned>(v[i] != 0) << i;
  return bits;
#endif
}

// e^x to about one unit in the last place; 0 far below zero, e^88 above 88.
inline Vector exp(Vector x) {
  const Vector least = broadcast(-87.0f), most = broadcast(88.0f);
  const Ints is_tiny = x < least;
  x = is_tiny ? least : x;
  x = x > most ? most : x;
  // x = n ln 2 + r with a whole n: adding 1.5 * 2^23 rounds to the nearest.
  const Vector magic = broadcast(12582912.0f);
  const Vector n = (x * 1.44269504f + magic) - magic;
  const Vector r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vector p = broadcast(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Ints exponent = (__builtin_convertvector(n, Ints) + 127) << 23;
  return is_tiny ? Vector{} : p * bits_as<Vector>(exponent);
}

// Denormal numbers, which cost a hundred times as much, are zeros meanwhile.
class Flushing {
 public:
#ifdef __x86_64__
  Flushing() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~Flushing() { _mm_setcsr(before_); }

 private:
  const unsigned before_;
#endif
};

// In a loop that waits for another thread.
inline void pause() {
#ifdef __x86_64__
  _mm_pause();
#endif
}

}  // namespace specrouter
