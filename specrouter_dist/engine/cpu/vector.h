// As many floats at a time as a register holds: sixteen, or eight. CPUs whose registers hold four
// take two for each.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace specrouter {

// Of twice as many the compiler would keep half in memory.
#ifdef __AVX512BW__
constexpr int kLanes = 16, kRegisters = 32;
#else
constexpr int kLanes = 8, kRegisters = 16;
#endif

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
typedef float Unaligned __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(kLanes * sizeof(int32_t))));
typedef int32_t UnalignedInts
    __attribute__((vector_size(kLanes * sizeof(int32_t)), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(kLanes * sizeof(uint32_t))));
typedef uint16_t UnalignedShorts
    __attribute__((vector_size(kLanes * sizeof(uint16_t)), aligned(2), may_alias));
typedef int16_t Shorts __attribute__((vector_size(kLanes * sizeof(int16_t))));

typedef int16_t Halves __attribute__((vector_size(kLanes * sizeof(int32_t))));
typedef int8_t UnalignedBytes __attribute__((vector_size(kLanes * 2), aligned(1), may_alias));

// Two whole numbers of 8 bits.
struct BytePair {
  int8_t first, second;
};

using Lanes = std::make_integer_sequence<int, kLanes>;

template <int... Lane>
constexpr Ints numbered(std::integer_sequence<int, Lane...>) {
  return Ints{Lane...};
}
constexpr Ints kLane = numbered(Lanes{});

template <typename To, typename From>
inline To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline Vector load(const float* from) { return *reinterpret_cast<const Unaligned*>(from); }
inline Ints load(const int32_t* from) { return *reinterpret_cast<const UnalignedInts*>(from); }
// As pairs of 16 bits. (Compilers convert the halves of a vector one by one.)
inline Ints load(const BytePair* from) {
#if defined(__AVX512BW__)
  return bits_as<Ints>(
      _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#elif defined(__AVX2__)
  return bits_as<Ints>(
      _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#else
  return bits_as<Ints>(
      __builtin_convertvector(*reinterpret_cast<const UnalignedBytes*>(from), Halves));
#endif
}
inline void store(float* to, Vector value) { *reinterpret_cast<Unaligned*>(to) = value; }
inline Vector broadcast(float value) { return value - Vector{}; }

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
#if defined(__AVX512BW__)
  const auto bits = bits_as<Words>(
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#elif defined(__AVX2__)
  const auto bits = bits_as<Words>(
      _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#else
  const auto bits = __builtin_convertvector(*reinterpret_cast<const UnalignedShorts*>(from), Words);
#endif
  return bits_as<Vector>(bits << 16);
}

// a * b + c, rounded once where the CPU can. Compilers do not do that by themselves here
// (-ffp-contract=off): where they would differs by what is around it, and rows would by their bits.
inline Vector multiply_add(Vector a, Vector b, Vector c) {
#if defined(__AVX512BW__)
  return bits_as<Vector>(
      _mm512_fmadd_ps(bits_as<__m512>(a), bits_as<__m512>(b), bits_as<__m512>(c)));
#elif defined(__AVX2__) && defined(__FMA__)
  return bits_as<Vector>(
      _mm256_fmadd_ps(bits_as<__m256>(a), bits_as<__m256>(b), bits_as<__m256>(c)));
#else
  return a * b + c;
#endif
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
  sums += bits_as<Ints>(_mm256_madd_epi16(bits_as<__m256i>(a), bits_as<__m256i>(b)));
#else
  sums += ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
#endif
}

// Every lane's value in the lane whose number differs in the bit `Step`.
template <int Step, typename Numbers, int... Lane>
inline Numbers swapped(Numbers v, std::integer_sequence<int, Lane...>) {
  return __builtin_shufflevector(v, v, (Lane ^ Step)...);
}

// Neighbours are added first.
template <int Step = 1>
inline float sum(Vector v) {
  if constexpr (Step == kLanes)
    return v[0];
  else
    return sum<2 * Step>(v + swapped<Step>(v, Lanes{}));
}

// Of floats or whole numbers.
template <int Step = kLanes / 2, typename Numbers>
inline auto greatest(Numbers v) {
  if constexpr (Step == 0) {
    return v[0];
  } else {
    const Numbers other = swapped<Step>(v, Lanes{});
    return greatest<Step / 2>(other > v ? other : v);
  }
}

// In which lanes a comparison holds, as bits.
inline unsigned bits_of(Ints holds) {
#if defined(__AVX512BW__)
  return _mm512_test_epi32_mask(bits_as<__m512i>(holds), bits_as<__m512i>(holds));
#elif defined(__AVX2__)
  return _mm256_movemask_ps(bits_as<__m256>(holds));
#else
  unsigned bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= static_cast<unsigned>(holds[i] != 0) << i;
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
  const Vector n = multiply_add(x, broadcast(1.44269504f), magic) - magic;
  const Vector r =
      multiply_add(n, broadcast(2.12194440e-4f), multiply_add(n, broadcast(-0.693359375f), x));
  Vector p = broadcast(1.9875691500e-4f);
  for (const float factor :
       {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = multiply_add(p, r, broadcast(factor));
  p = multiply_add(p * r, r, r) + 1.0f;
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
