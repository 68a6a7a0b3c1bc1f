// SPDX-License-Identifier: Apache-2.0
// The C functions of the CPU library against scalar loops, without Python: made to run under AddressSanitizer and
// UndefinedBehaviorSanitizer.
#include "problem.h"

#include <cstdlib>
#include <thread>

namespace {

// --- the tests --------------------------------------------------------------------------------------------------

const double kNan = std::numeric_limits<double>::quiet_NaN();

template <int Type>
void test_sample(Problem<Type>& p, const std::string& what) {
  using T = typename Storage<Type>::T;
  Buffer<T> columns(p.count * p.K * p.s.channels, kNan);
  kernels->deform_sample(&p.tile, Type, p.image.data(), p.offset.data(), p.mask_pointer(), columns.data());
  p.for_entries([&](int64_t c, int64_t k, int64_t i) {
    check_near(columns[p.column(c, k, i)], p.modulation(p.group(c), k, i) * p.value(c, k, i), what + " columns");
  });
  columns.check_guards(what + " columns");
}

template <int Type>
void test_sample_backward(Problem<Type>& p, int64_t slices, const std::string& what) {
  using T = typename Storage<Type>::T;
  const int64_t samples = p.s.offset_groups * p.K, stride = p.s.channels + 2;
  Buffer<T> columns(p.count * p.K * p.s.channels), partial(slices * p.count * samples * 3, kNan);
  Buffer<T> grad_image((p.s.height * p.s.width - 1) * stride + p.s.channels, 0.25);
  Buffer<T> grad_offset(p.offset.size), grad_mask(p.mask.size);
  auto upstream = [&](int64_t c, int64_t k, int64_t i) { return double((c * 7 + k * 3 + i * 5) % 16) / 8 - 0.75; };
  p.for_entries([&](int64_t c, int64_t k, int64_t i) { columns[p.column(c, k, i)] = T(upstream(c, k, i)); });
  kernels->deform_sample_backward(&p.tile, Type, p.image.data(), p.offset.data(), p.mask_pointer(), columns.data(),
                                  grad_image.data(), stride, partial.data(), slices, p.s.offset_groups);
  kernels->deform_reduce(partial.data(), sizeof(T) == 8, slices, p.count, samples, grad_offset.data(), grad_mask.data(),
                         p.tile.threads);
  check_gradients(p, upstream, grad_image, stride, grad_offset, grad_mask, 0.25, what);
  p.for_entries([&](int64_t c, int64_t k, int64_t i) {
    check_near(columns[p.column(c, k, i)], p.modulation(p.group(c), k, i) * p.value(c, k, i), what + " columns again");
  });
  columns.check_guards(what + " columns");
  partial.check_guards(what + " partial");
}

template <int Type>
void test_depthwise(Problem<Type>& p, int64_t slices, const std::string& what) {
  using T = typename Storage<Type>::T;
  const int64_t C = p.s.channels, samples = p.s.offset_groups * p.K, stride = C + 1;
  Random random{99};
  Buffer<T> weight(p.K * C), bias(C), output((p.count - 1) * stride + C, kNan), grad(p.count * C);
  for (int64_t i = 0; i < weight.size; ++i) weight[i] = T(random(2));
  for (int64_t c = 0; c < C; ++c) bias[c] = T(random(2));
  for (int64_t i = 0; i < grad.size; ++i) grad[i] = T(random(1));
  kernels->deform_depthwise(&p.tile, Type, p.image.data(), p.offset.data(), p.mask_pointer(), weight.data(),
                            bias.data(), output.data(), stride);
  std::vector<double> expected(p.count * C), grad_weight_expected(p.K * C, 0.5);
  p.for_entries([&](int64_t c, int64_t k, int64_t i) {
    const double v = p.modulation(p.group(c), k, i) * p.value(c, k, i);
    expected[i * C + c] += double(weight[k * C + c]) * v;
    grad_weight_expected[k * C + c] += double(grad[i * C + c]) * v;
  });
  for (int64_t i = 0; i < p.count; ++i)
    for (int64_t c = 0; c < C; ++c)
      check_near(output[i * stride + c], expected[i * C + c] + double(bias[c]), what + " output");
  output.check_guards(what + " output");

  Buffer<T> partial(slices * p.count * samples * 3, kNan), grad_image((p.s.height * p.s.width - 1) * C + C, -1);
  Buffer<T> grad_offset(p.offset.size), grad_mask(p.mask.size), grad_weight(p.K * C, 0.5);
  kernels->deform_depthwise_backward(&p.tile, Type, p.image.data(), p.offset.data(), p.mask_pointer(), weight.data(),
                                     grad.data(), grad_image.data(), C, grad_weight.data(), partial.data(), slices,
                                     p.s.offset_groups);
  kernels->deform_reduce(partial.data(), sizeof(T) == 8, slices, p.count, samples, grad_offset.data(), grad_mask.data(),
                         p.tile.threads);
  auto upstream = [&](int64_t c, int64_t k, int64_t i) { return double(grad[i * C + c]) * double(weight[k * C + c]); };
  check_gradients(p, upstream, grad_image, C, grad_offset, grad_mask, -1, what);
  for (int64_t i = 0; i < p.K * C; ++i)
    check_near(grad_weight[i], grad_weight_expected[i], what + " gradient of the weight");
  grad_weight.check_guards(what + " grad_weight");
}

// Sampling and product in one: groups of outputs that fill no whole panel, with a bias, then once more on top.
template <int Type>
void test_conv(Problem<Type>& p, const std::string& what) {
  using S = typename Storage<Type>::S;
  using T = typename Storage<Type>::T;
  const int64_t per_group = 5, groups = p.s.groups, rows = p.K * p.tile.run, panel = kernels->deform_conv_panel(Type);
  const int64_t panels = (per_group + panel - 1) / panel, O = per_group * groups, stride[2] = {O + 2, 1};
  Random random{7};
  Buffer<T> weight(groups * panels * rows * panel), bias(O);
  Buffer<S> output((p.count - 1) * stride[0] + O);
  std::vector<double> expected(p.count * O);
  for (int64_t o = 0; o < O; ++o) bias[o] = T(random(2));
  auto packed = [&](int64_t o, int64_t k, int64_t c) -> T& {
    const int64_t g = o / per_group, in_group = o % per_group, r = k * p.tile.run + c % p.tile.run;
    return weight[((g * panels + in_group / panel) * rows + r) * panel + in_group % panel];
  };
  for (int64_t o = 0; o < O; ++o)
    for (int64_t r = 0; r < rows; ++r) packed(o, r / p.tile.run, r % p.tile.run) = T(random(1));
  p.for_entries([&](int64_t c, int64_t k, int64_t i) {
    const double v = p.modulation(p.group(c), k, i) * p.value(c, k, i);
    const int64_t g = c / p.tile.run;
    for (int64_t o = g * per_group; o < (g + 1) * per_group; ++o) expected[i * O + o] += double(packed(o, k, c)) * v;
  });
  for (int accumulate : {0, 1}) {
    const int status =
        kernels->deform_conv(&p.tile, Type, p.image.data(), p.offset.data(), p.mask_pointer(), weight.data(), per_group,
                             accumulate ? nullptr : bias.data(), output.data(), stride, accumulate);
    check(status == 0, what + " status");
    for (int64_t i = 0; i < p.count && sizeof(S) == sizeof(T); ++i)
      for (int64_t o = 0; o < O; ++o)
        check_near(output[i * stride[0] + o], (accumulate + 1) * expected[i * O + o] + double(bias[o]),
                   what + " output");
    output.check_guards(what + " output");
  }
}

void test_transpose(int64_t rows, int64_t columns, int64_t threads) {
  Buffer<float> source(rows * (columns + 3)), result(columns * (rows + 2), -1);
  for (int64_t i = 0; i < source.size; ++i) source[i] = float(i);
  kernels->transpose(source.data(), rows, columns, columns + 3, result.data(), rows + 2, sizeof(float), threads);
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t r = 0; r < rows; ++r) check(result[c * (rows + 2) + r] == float(r * (columns + 3) + c), "transpose");
    for (int64_t gap = rows; gap < rows + 2; ++gap) check(result[c * (rows + 2) + gap] == -1, "transpose: gap written");
  }
  result.check_guards("transpose");
}

template <int Type>
void test_type(const Shape& shape, int64_t threads, const std::string& what) {
  Problem<Type> p(shape, threads);
  test_sample(p, what + " sample");
  test_conv(p, what + " conv");
  for (int64_t slices : {int64_t(1), int64_t(2)}) {
    test_sample_backward(p, slices, what + " sample_backward");
    test_depthwise(p, slices, what + " depthwise");
  }
}

// Stands for GOMP_parallel: runs the function once on each of a team of threads.
void team(void (*function)(void*), void* data, unsigned threads, unsigned) {
  std::vector<std::thread> others;
  for (unsigned i = 1; i < threads; ++i) others.emplace_back(function, data);
  function(data);
  for (auto& other : others) other.join();
}

}  // namespace

int main() {
  check(pliant_abi_version() == PLIANT_ABI_VERSION, "the interface's version");
  check(pliant_kernels_for("no such set") == nullptr, "an unknown instruction set is refused");
  const std::string best = pliant_kernels_for(nullptr)->instruction_set;
  std::string widest;
  for (const char* set : {"baseline", "avx2", "avx512"}) {
    kernels = pliant_kernels_for(set);
    if (kernels == nullptr) continue;
    check(std::string(kernels->instruction_set) == set, "the kernels are of the set that was named");
    widest = set;
    for (int64_t threads : {1, 3}) {
      pliant_set_parallel_region(threads == 1 ? nullptr : team);
      for (int64_t rows : {1, 7, 16, 65})
        for (int64_t columns : {1, 8, 33, 130}) test_transpose(rows, columns, threads);
      test_pooling(std::string(set) + ", " + std::to_string(threads) + " threads, ", threads);
      for (const Shape& shape : kShapes) {
        const std::string what = std::string(set) + ", " + std::to_string(threads) + " threads, " + shape.name;
        test_type<PLIANT_FLOAT64>(shape, threads, what + ", float64:");
        test_type<PLIANT_FLOAT32>(shape, threads, what + ", float32:");
        if (threads == 3) continue;
        test_type<PLIANT_BFLOAT16>(shape, threads, what + ", bfloat16:");
        test_type<PLIANT_FLOAT16>(shape, threads, what + ", float16:");
      }
    }
  }
  check(widest == best, "without a name, the widest set that runs is chosen");
  if (failures) std::fprintf(stderr, "%d checks failed\n", failures);
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
