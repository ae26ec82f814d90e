// The loops of featint/sparse.py that PyTorch has no good CPU operation for. Compiled on first use by featint/kernels.py; without a
// compiler the same functions run in plain PyTorch. Every output row is written by one thread in a fixed order: results do not depend
// on scheduling. Matrices are row-major and contiguous; `acts` and `indices` are (batch, k).

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

using Int = int64_t;

struct BFloat16 {  // the upper half of a float32
    uint16_t bits;
    operator float() const {
        uint32_t wide = uint32_t(bits) << 16;
        float value;
        std::memcpy(&value, &wide, 4);
        return value;
    }
};

constexpr Int CACHED = 1 << 20;  // bytes of a table that stay in a core's second-level cache beside everything else

// Calls f(b, j) for every entry j of every token b, a stretch of the table's rows at a time: a stretch is fetched into the cache once and
// read by all tokens, where the whole table would be fetched for each. Where indices do not ascend within a token the calls are the same
// but less local.
template <class F>
void by_stretches(const Int* indices, Int batch, Int k, Int d_sae, Int row_bytes, F f) {
    const Int stretch = std::max(Int(1), CACHED / row_bytes);
    std::vector<Int> next(batch);
    for (Int b = 0; b < batch; b++) next[b] = b * k;
    for (Int limit = stretch;; limit += stretch) {
        const bool last = limit >= d_sae;
#pragma omp for schedule(static) nowait
        for (Int b = 0; b < batch; b++) {
            Int j = next[b];
            for (const Int end = (b + 1) * k; j < end && (last || indices[j] < limit); j++) f(b, j);
            next[b] = j;
        }
        if (last) return;
    }
}

// out[b] = sum over j of acts[b, j] * table[indices[b, j]]
template <class T>
void bag(const T* acts, const Int* indices, const T* table, T* out, Int batch, Int k, Int d, Int d_sae, int threads) {
    std::fill(out, out + batch * d, T(0));
#pragma omp parallel num_threads(threads)
    by_stretches(indices, batch, k, d_sae, d * sizeof(T), [=](Int b, Int j) {
        T* sum = out + b * d;
        const T act = acts[j];
        const T* row = table + indices[j] * d;
        if (act != 0)
#pragma omp simd
            for (Int i = 0; i < d; i++) sum[i] += act * row[i];
    });
}

// out[b, j] = rows[b] . table[indices[b, j]]
template <class T>
void row_dots(const T* rows, const Int* indices, const T* table, T* out, Int batch, Int k, Int d, Int d_sae, int threads) {
#pragma omp parallel num_threads(threads)
    by_stretches(indices, batch, k, d_sae, d * sizeof(T), [=](Int b, Int j) {
        const T* left = rows + b * d;
        const T* right = table + indices[j] * d;
        T dot = 0;
#pragma omp simd reduction(+ : dot)
        for (Int i = 0; i < d; i++) dot += left[i] * right[i];
        out[j] = dot;
    });
}

// out[f] = sum over the entries (b, j) with indices[b, j] = f of acts[b, j] * rows[b]; the entries are first sorted by feature
template <class T>
void weight_grad(const T* rows, const T* acts, const Int* indices, T* out, Int batch, Int k, Int d, Int d_sae, int threads) {
    struct Entry {
        T act;
        int32_t token;
    };
    std::vector<Int> start(d_sae + 1);
    for (Int p = 0; p < batch * k; p++) start[indices[p] + 1] += acts[p] != 0;
    for (Int f = 0; f < d_sae; f++) start[f + 1] += start[f];
    std::vector<Int> next(start.begin(), start.end() - 1);
    std::vector<Entry> entries(start[d_sae]);
    for (Int b = 0; b < batch; b++)
        for (Int p = b * k; p < (b + 1) * k; p++)
            if (acts[p] != 0) entries[next[indices[p]]++] = {acts[p], int32_t(b)};
#pragma omp parallel for num_threads(threads) schedule(dynamic, 64)
    for (Int f = 0; f < d_sae; f++) {
        T* sum = out + f * d;
        std::fill(sum, sum + d, T(0));
        for (Int e = start[f]; e < start[f + 1]; e++) {
            const T act = entries[e].act;
            const T* row = rows + entries[e].token * d;
#pragma omp simd
            for (Int i = 0; i < d; i++) sum[i] += act * row[i];
        }
    }
}

template <class T> struct Bits;
template <> struct Bits<BFloat16> { using Key = int16_t; static constexpr Key infinity = 0x7f80; };
template <> struct Bits<float> { using Key = int32_t; static constexpr Key infinity = 0x7f800000; };
template <> struct Bits<double> { using Key = int64_t; static constexpr Key infinity = 0x7ff0000000000000; };

// An integer that orders as the number does; NaN comes above all, so that it is passed on.
template <class T>
typename Bits<T>::Key key(T x) {
    using Key = typename Bits<T>::Key;
    constexpr Key largest = std::numeric_limits<Key>::max();
    Key bits;
    std::memcpy(&bits, &x, sizeof x);
    const Key magnitude = bits & largest;
    return magnitude > Bits<T>::infinity ? largest : bits < 0 ? Key(~magnitude) : magnitude;
}

// The k-th largest of n keys, bit by bit from the highest: the largest number that k keys reach.
template <class Key>
Key kth_largest(const Key* keys, Int n, Int k) {
    constexpr Int part = 4096;  // so many are counted in a Key without overflow
    Key found = std::numeric_limits<Key>::min();
    for (int bit = 8 * sizeof(Key) - 1; bit >= 0; bit--) {
        const Key trial = found < 0 && bit == 8 * sizeof(Key) - 1 ? Key(0) : Key(found | Key(1) << bit);
        Int reached = 0;
        for (Int first = 0; first < n; first += part) {
            Key count = 0;
            const Int end = std::min(first + part, n);
#pragma omp simd reduction(+ : count)
            for (Int i = first; i < end; i++) count += keys[i] >= trial;
            reached += count;
        }
        if (reached >= k) found = trial;
    }
    return found;
}

// The k largest of each row of `in` (batch, n), in the order of their columns; of equal ones the first. Columns are dealt into groups; the
// k-th largest of the groups' maxima is at most the k-th largest value, so that only the columns that reach it need a second look.
// The loops over columns have no branches: what is not wanted is overwritten by the next.
template <class In, class T>
void top(const In* in, T* acts, Int* indices, Int batch, Int n, Int k, int threads) {
    using Key = typename Bits<In>::Key;
    constexpr Int word = 8;  // columns that are skipped at once
    Int per_group = 32;
    while (per_group > 1 && n / per_group < 2 * k) per_group /= 2;
    const Int groups = n / per_group, n_words = (n + word - 1) / word;
#pragma omp parallel num_threads(threads)
    {
        std::vector<Key> keys(n), maxima(groups), close(n);
        std::vector<uint8_t> reaches(n_words * word);
        std::vector<Int> words(n_words + 1), columns(n_words * word + 1);
#pragma omp for
        for (Int b = 0; b < batch; b++) {
            const In* row = in + b * n;
#pragma omp simd
            for (Int i = 0; i < n; i++) keys[i] = key(row[i]);
            std::copy(keys.begin(), keys.begin() + groups, maxima.begin());
            for (Int start = groups; start + groups <= n; start += groups)
#pragma omp simd
                for (Int g = 0; g < groups; g++) maxima[g] = std::max(maxima[g], keys[start + g]);
            Key bound = kth_largest(maxima.data(), groups, k);
#pragma omp simd
            for (Int i = 0; i < n; i++) reaches[i] = keys[i] >= bound;
            Int n_found = 0, n_close = 0;
            for (Int w = 0; w < n_words; w++) {
                uint64_t any;
                std::memcpy(&any, reaches.data() + w * word, word);
                words[n_found] = w;
                n_found += any != 0;
            }
            for (Int f = 0; f < n_found; f++)
                for (Int i = words[f] * word; i < (words[f] + 1) * word; i++) {
                    columns[n_close] = i;
                    n_close += reaches[i];
                }
            for (Int c = 0; c < n_close; c++) close[c] = keys[columns[c]];
            bound = kth_largest(close.data(), n_close, k);
            Int equal = k;  // as many as there is room for beside the larger ones
            for (Int c = 0; c < n_close; c++) equal -= close[c] > bound;
            for (Int c = 0, j = b * k; j < (b + 1) * k; c++) {
                indices[j] = columns[c];
                acts[j] = T(row[columns[c]]);
                const bool tie = close[c] == bound;
                j += close[c] > bound || (tie && equal > 0);
                equal -= tie;
            }
        }
    }
}

#define EXPORT(T, name)                                                                                                                \
    void bag_##name(const T* a, const Int* i, const T* t, T* o, Int b, Int k, Int d, Int s, int n) { bag(a, i, t, o, b, k, d, s, n); } \
    void row_dots_##name(const T* r, const Int* i, const T* t, T* o, Int b, Int k, Int d, Int s, int n) {                              \
        row_dots(r, i, t, o, b, k, d, s, n);                                                                                           \
    }                                                                                                                                  \
    void weight_grad_##name(const T* r, const T* a, const Int* i, T* o, Int b, Int k, Int d, Int s, int n) {                           \
        weight_grad(r, a, i, o, b, k, d, s, n);                                                                                        \
    }                                                                                                                                  \
    void top_##name(const T* x, T* a, Int* i, Int b, Int w, Int k, int n) { top(x, a, i, b, w, k, n); }

extern "C" {
EXPORT(float, float32)
EXPORT(double, float64)
void top_bfloat16(const BFloat16* x, float* a, Int* i, Int b, Int w, Int k, int n) { top(x, a, i, b, w, k, n); }
}
