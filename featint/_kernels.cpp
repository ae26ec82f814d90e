// The loops of featint/sparse.py that PyTorch has no good CPU operation for. Compiled on first use by featint/kernels.py; without a
// compiler the same functions run in plain PyTorch. Every output row is written by one thread in a fixed order: results do not depend
// on scheduling. Matrices are row-major and contiguous; `acts` and `indices` are (batch, k).

#include <algorithm>
#include <cmath>
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

// out[b] = sum over j of acts[b, j] * table[indices[b, j]]
template <class T>
void bag(const T* acts, const Int* indices, const T* table, T* out, Int batch, Int k, Int d, int threads) {
#pragma omp parallel for num_threads(threads)
    for (Int b = 0; b < batch; b++) {
        T* sum = out + b * d;
        std::fill(sum, sum + d, T(0));
        for (Int j = b * k; j < (b + 1) * k; j++) {
            const T act = acts[j];
            const T* row = table + indices[j] * d;
            if (act != 0)
#pragma omp simd
                for (Int i = 0; i < d; i++) sum[i] += act * row[i];
        }
    }
}

// out[b, j] = rows[b] . table[indices[b, j]]
template <class T>
void row_dots(const T* rows, const Int* indices, const T* table, T* out, Int batch, Int k, Int d, int threads) {
#pragma omp parallel for num_threads(threads)
    for (Int b = 0; b < batch; b++) {
        const T* left = rows + b * d;
        for (Int j = b * k; j < (b + 1) * k; j++) {
            const T* right = table + indices[j] * d;
            T dot = 0;
#pragma omp simd reduction(+ : dot)
            for (Int i = 0; i < d; i++) dot += left[i] * right[i];
            out[j] = dot;
        }
    }
}

// out[f] = sum over the pairs (b, j) with indices[b, j] = f of acts[b, j] * rows[b]; the pairs are first sorted by feature
template <class T>
void weight_grad(const T* rows, const T* acts, const Int* indices, T* out, Int batch, Int k, Int d, Int d_sae, int threads) {
    std::vector<Int> start(d_sae + 1), pairs;
    for (Int p = 0; p < batch * k; p++) start[indices[p] + 1] += acts[p] != 0;
    for (Int f = 0; f < d_sae; f++) start[f + 1] += start[f];
    std::vector<Int> next(start.begin(), start.end() - 1);
    pairs.resize(start[d_sae]);
    for (Int p = 0; p < batch * k; p++)
        if (acts[p] != 0) pairs[next[indices[p]]++] = p;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 64)
    for (Int f = 0; f < d_sae; f++) {
        T* sum = out + f * d;
        std::fill(sum, sum + d, T(0));
        for (Int p = start[f]; p < start[f + 1]; p++) {
            const T act = acts[pairs[p]];
            const T* row = rows + pairs[p] / k * d;
#pragma omp simd
            for (Int i = 0; i < d; i++) sum[i] += act * row[i];
        }
    }
}

// The k largest of each row of `in` (batch, n), in no order. Columns are dealt into groups; the k-th largest of the groups' maxima is at
// most the k-th largest value, so that only the groups that reach it need a second look.
template <class In, class T>
void top(const In* in, T* acts, Int* indices, Int batch, Int n, Int k, int threads) {
    Int per_group = 32;
    while (per_group > 1 && n / per_group < 2 * k) per_group /= 2;
    const Int groups = n / per_group;
#pragma omp parallel num_threads(threads)
    {
        std::vector<T> maxima(groups), sorted;
        std::vector<Int> found;
#pragma omp for
        for (Int b = 0; b < batch; b++) {
            const In* row = in + b * n;
            for (Int g = 0; g < groups; g++) maxima[g] = T(row[g]);
            for (Int start = groups; start + groups <= n; start += groups)
#pragma omp simd
                for (Int g = 0; g < groups; g++) maxima[g] = std::max(maxima[g], T(row[start + g]));
            sorted = maxima;
            std::nth_element(sorted.begin(), sorted.begin() + k - 1, sorted.end(), std::greater<T>());
            const T bound = sorted[k - 1];
            found.clear();
            for (Int g = 0; g < groups; g++)
                if (maxima[g] >= bound)
                    for (Int i = g; i < groups * per_group; i += groups)
                        if (T(row[i]) >= bound) found.push_back(i);
            for (Int i = groups * per_group; i < n; i++)
                if (T(row[i]) >= bound) found.push_back(i);
            const bool broken = Int(found.size()) < k;  // only NaN can do this: pass it on
            if (broken) found.assign(k, 0);
            auto larger = [row](Int i, Int j) { return T(row[i]) > T(row[j]); };
            std::nth_element(found.begin(), found.begin() + k - 1, found.end(), larger);
            for (Int j = 0; j < k; j++) {
                indices[b * k + j] = found[j];
                acts[b * k + j] = broken ? std::numeric_limits<T>::quiet_NaN() : T(row[found[j]]);
            }
        }
    }
}

#define EXPORT(T, name)                                                                                                                \
    void bag_##name(const T* a, const Int* i, const T* t, T* o, Int b, Int k, Int d, int n) { bag(a, i, t, o, b, k, d, n); }           \
    void row_dots_##name(const T* r, const Int* i, const T* t, T* o, Int b, Int k, Int d, int n) { row_dots(r, i, t, o, b, k, d, n); } \
    void weight_grad_##name(const T* r, const T* a, const Int* i, T* o, Int b, Int k, Int d, Int s, int n) {                           \
        weight_grad(r, a, i, o, b, k, d, s, n);                                                                                        \
    }                                                                                                                                  \
    void top_##name(const T* x, T* a, Int* i, Int b, Int w, Int k, int n) { top(x, a, i, b, w, k, n); }

extern "C" {
EXPORT(float, float32)
EXPORT(double, float64)
void top_bfloat16(const BFloat16* x, float* a, Int* i, Int b, Int w, Int k, int n) { top(x, a, i, b, w, k, n); }
}
