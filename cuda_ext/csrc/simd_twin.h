// SPDX-License-Identifier: Apache-2.0
// simd_twin.h - simd.h's vectors on machines whose registers hold 8 or 4 floats: two halves, down to one register.
// Included by simd.h inside of its namespace; do not include it by itself.

#if defined(__AVX2__)
typedef float Rf __attribute__((vector_size(32)));
typedef int32_t Ri __attribute__((vector_size(32)));
typedef uint32_t Ru __attribute__((vector_size(32)));
#else
typedef float Rf __attribute__((vector_size(16)));
typedef int32_t Ri __attribute__((vector_size(16)));
typedef uint32_t Ru __attribute__((vector_size(16)));
#endif

// What one register does.
DL_HD Ri bits(Rf x) { return (Ri)x; }
DL_HD Rf from_bits(Ri x) { return (Rf)x; }
DL_HD Rf to_float(Ri x) { return __builtin_convertvector(x, Rf); }
DL_HD Ri to_int(Rf x) { return __builtin_convertvector(x, Ri); }
DL_HD Ru to_unsigned(Ri x) { return (Ru)x; }
DL_HD Rf choose(Ri c, Rf a, Rf b) { return c ? a : b; }
DL_HD Ri choose(Ri c, Ri a, Ri b) { return c ? a : b; }
#if defined(__AVX2__)
DL_HD Rf root(Rf x) { return (Rf)_mm256_sqrt_ps((__m256)x); }
DL_HD uint32_t mask_of(Ri c) { return uint32_t(_mm256_movemask_ps((__m256)c)); }
#elif defined(__SSE2__)
DL_HD Rf root(Rf x) { return (Rf)_mm_sqrt_ps((__m128)x); }
DL_HD uint32_t mask_of(Ri c) { return uint32_t(_mm_movemask_ps((__m128)c)); }
#elif defined(__aarch64__)
DL_HD Rf root(Rf x) { return (Rf)vsqrtq_f32((float32x4_t)x); }
DL_HD uint32_t mask_of(Ri c) { return vaddvq_u32((uint32x4_t)(c & Ri{1, 2, 4, 8})); }
#else
DL_HD Rf root(Rf x) { return Rf{sqrtf(x[0]), sqrtf(x[1]), sqrtf(x[2]), sqrtf(x[3])}; }
DL_HD uint32_t mask_of(Ri c) { return (c[0] & 1) | (c[1] & 2) | (c[2] & 4) | (c[3] & 8); }
#endif
// x y - z with one rounding.
#if defined(__AVX2__) && defined(__FMA__)
DL_HD Rf fused(Rf x, float y, Rf z) { return (Rf)_mm256_fmsub_ps((__m256)x, _mm256_set1_ps(y), (__m256)z); }
#elif defined(__aarch64__)
DL_HD Rf fused(Rf x, float y, Rf z) { return (Rf)vfmaq_n_f32((float32x4_t)-z, (float32x4_t)x, y); }
#else
DL_HD Rf fused(Rf x, float y, Rf z) {
  for (int i = 0; i < int(sizeof x / sizeof x[0]); i++) x[i] = float(double(x[i]) * y - z[i]);
  return x;
}
#endif

// Operators work on both halves; a number stands for all lanes.
template <class V>
struct Twin {
  typedef decltype(V{}[0] + 0) Number;
  typedef Number __attribute__((may_alias)) Lane;
  V lo, hi;

  DL_HD Lane& operator[](int lane) { return reinterpret_cast<Lane*>(this)[lane]; }
  DL_HD Lane operator[](int lane) const { return reinterpret_cast<const Lane*>(this)[lane]; }
};

template <class V>
DL_HD Twin<V> twin(V lo, V hi) { return {lo, hi}; }
template <class V>
using Number = typename Twin<V>::Number;

#define DL_TWIN_OPERATOR(op)                                                                               \
  template <class V>                                                                                       \
  DL_HD auto operator op(Twin<V> a, Twin<V> b) { return twin(a.lo op b.lo, a.hi op b.hi); }                \
  template <class V>                                                                                       \
  DL_HD auto operator op(Twin<V> a, Number<V> b) { return twin(a.lo op b, a.hi op b); }                    \
  template <class V>                                                                                       \
  DL_HD auto operator op(Number<V> a, Twin<V> b) { return twin(a op b.lo, a op b.hi); }
#define DL_TWIN_ARITHMETIC(op)                                                                             \
  DL_TWIN_OPERATOR(op)                                                                                     \
  template <class V, class W>                                                                              \
  DL_HD Twin<V>& operator op##=(Twin<V>& a, const W& b) { return a = a op b; }
DL_TWIN_ARITHMETIC(+)
DL_TWIN_ARITHMETIC(-)
DL_TWIN_ARITHMETIC(*)
DL_TWIN_ARITHMETIC(/)
DL_TWIN_ARITHMETIC(&)
DL_TWIN_ARITHMETIC(|)
DL_TWIN_ARITHMETIC(^)
DL_TWIN_ARITHMETIC(<<)
DL_TWIN_ARITHMETIC(>>)
DL_TWIN_OPERATOR(<)
DL_TWIN_OPERATOR(<=)
DL_TWIN_OPERATOR(>)
DL_TWIN_OPERATOR(>=)
DL_TWIN_OPERATOR(==)
DL_TWIN_OPERATOR(!=)
#undef DL_TWIN_ARITHMETIC
#undef DL_TWIN_OPERATOR
template <class V>
DL_HD Twin<V> operator-(Twin<V> a) { return {-a.lo, -a.hi}; }
template <class V>
DL_HD Twin<V> operator~(Twin<V> a) { return {~a.lo, ~a.hi}; }

template <class V>
DL_HD auto bits(Twin<V> x) { return twin(bits(x.lo), bits(x.hi)); }
template <class V>
DL_HD auto from_bits(Twin<V> x) { return twin(from_bits(x.lo), from_bits(x.hi)); }
template <class V>
DL_HD auto to_float(Twin<V> x) { return twin(to_float(x.lo), to_float(x.hi)); }
template <class V>
DL_HD auto to_int(Twin<V> x) { return twin(to_int(x.lo), to_int(x.hi)); }
template <class V>
DL_HD auto to_unsigned(Twin<V> x) { return twin(to_unsigned(x.lo), to_unsigned(x.hi)); }
template <class C, class V>
DL_HD Twin<V> choose(Twin<C> c, Twin<V> a, Twin<V> b) { return {choose(c.lo, a.lo, b.lo), choose(c.hi, a.hi, b.hi)}; }
template <class V>
DL_HD Twin<V> root(Twin<V> x) { return {root(x.lo), root(x.hi)}; }
template <class V>
DL_HD uint32_t mask_of(Twin<V> c) { return mask_of(c.lo) | mask_of(c.hi) << sizeof(V) / sizeof(int32_t); }
template <class V>
DL_HD Twin<V> fused(Twin<V> x, float y, Twin<V> z) { return {fused(x.lo, y, z.lo), fused(x.hi, y, z.hi)}; }

#if defined(__AVX2__)
typedef Twin<Rf> Vf;
typedef Twin<Ri> Vi;
typedef Twin<Ru> Vu;
#else
typedef Twin<Twin<Rf>> Vf;
typedef Twin<Twin<Ri>> Vi;
typedef Twin<Twin<Ru>> Vu;
#endif
DL_HD Vf select(Vi c, Vf a, Vf b) { return choose(c, a, b); }
DL_HD Vi select(Vi c, Vi a, Vi b) { return choose(c, a, b); }
DL_HD Vf sqrt_(Vf x) { return root(x); }
DL_HD uint32_t mask_bits(Vi c) { return mask_of(c); }
