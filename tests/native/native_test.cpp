// SPDX-License-Identifier: Apache-2.0
// The C functions of the CPU library against scalar loops, without Python: made to run under AddressSanitizer and
// UndefinedBehaviorSanitizer.
#include "problem.h"

#include <cstdlib>
#include <fstream>
#include <thread>

namespace {

// --- the tests --------------------------------------------------------------------------------------------------

const double kNan = std::numeric_limits<double>::quiet_NaN();

template <int Type>
double tolerance() {
  return sizeof(typename Storage<Type>::S) == 2 ? Storage<Type>::epsilon : 0;
}

// Columns are of the image's type: half types round them once.
template <int Type>
void check_columns(Problem<Type>& p, Buffer<typename Storage<Type>::S>& columns, const std::string& what) {
  p.for_entries([&](int64_t c, int64_t k, int64_t i) {
    const double expected = p.modulation(p.group(c), k, i) * p.value(c, k, i);
    const double error = std::fabs(Storage<Type>::decode(columns[p.column(c, k, i)]) - expected);
    check(error <= tolerance<Type>() * std::fabs(expected) + 2e-5 * 10, what + " columns");
  });
  columns.check_guards(what + " columns");
}

template <int Type>
void test_sample(Problem<Type>& p, const std::string& what) {
  using S = typename Storage<Type>::S;
  Buffer<S> columns(p.positions * p.K * p.s.channels);
  for (int64_t i = 0; i < columns.size; ++i) columns[i] = Storage<Type>::encode(7);
  kernels->deform_sample(&p.tile, Type, p.image.data(), p.offset.data(), p.mask_pointer(), columns.data());
  check_columns(p, columns, what);
}

// What a backward pass writes, with something in it before where it adds: the image's gradient if there is one thread,
// and no memory to add up in.
template <int Type>
struct Results {
  using S = typename Storage<Type>::S;
  using T = typename Storage<Type>::T;
  int64_t pixels, rows;
  bool adds, planes;  // the latter of an odd number of channels
  int64_t pixel_stride, channel_stride, image_stride;
  Buffer<T> added, memory, offset, mask, shares;
  Buffer<S> written;
  pliant_gradients described;

  Results(Problem<Type>& p, const void* grad, int64_t grad_stride, int64_t gap)
      : pixels(p.s.height * p.s.width),
        rows(p.s.offset_groups * p.K),
        adds(p.tile.threads == 1),
        planes(!adds && p.s.channels % 2 == 1),
        pixel_stride(planes ? 1 : p.s.channels + gap),
        channel_stride(planes ? pixels + gap : 1),
        image_stride((planes ? p.s.channels : pixels) * (planes ? channel_stride : pixel_stride)),
        added(adds ? p.s.images * image_stride - gap : 0, 0.25),
        memory(p.s.images * pixels * p.s.channels, kNan),
        offset(p.offset.size, 0.5),
        mask(p.mask.size, 0.5),
        shares(kernels->deform_shares(&p.tile) * 3 * rows * p.positions, kNan),
        written(adds ? 0 : p.s.images * image_stride - gap) {
    const int64_t type = sizeof(T) == 8 ? PLIANT_FLOAT64 : PLIANT_FLOAT32;
    described = {grad,
                 {p.count * grad_stride, grad_stride},
                 adds ? static_cast<void*>(added.data()) : written.data(),
                 image_stride,
                 pixel_stride,
                 channel_stride,
                 adds ? nullptr : memory.data(),
                 nullptr,
                 offset.data(),
                 mask.data(),
                 type,
                 type,
                 p.count,
                 int64_t(0),
                 shares.data()};
  }

  template <class Gradient>
  void check(Problem<Type>& p, Gradient upstream, const std::string& what) {
    const auto image = [&](int64_t q, int64_t c) {
      const int64_t at = q / pixels * image_stride + q % pixels * pixel_stride + c * channel_stride;
      return adds ? double(added[at]) - 0.25 : double(Storage<Type>::decode(written[at]));
    };
    check_gradients(p, upstream, image, offset, mask, what);
    added.check_guards(what + " grad_image");
    written.check_guards(what + " grad_image");
    shares.check_guards(what + " shares");
    memory.check_guards(what + " memory of the image's gradient");
  }
};

template <int Type>
void test_sample_backward(Problem<Type>& p, const std::string& what) {
  using S = typename Storage<Type>::S;
  Buffer<S> columns(p.positions * p.K * p.s.channels);
  auto upstream = [&](int64_t c, int64_t k, int64_t i) { return double((c * 7 + k * 3 + i * 5) % 16) / 8 - 0.75; };
  p.for_entries(
      [&](int64_t c, int64_t k, int64_t i) { columns[p.column(c, k, i)] = Storage<Type>::encode(upstream(c, k, i)); });
  Results<Type> results(p, nullptr, 0, 2);
  kernels->deform_sample_backward(&p.tile, Type, p.image.data(), p.offset.data(), p.mask_pointer(), columns.data(),
                                  &results.described);
  results.check(p, upstream, what);
  check_columns(p, columns, what + " again,");
}

// All gradients in one; then that of the weights alone, on top of it.
template <int Type>
void test_conv_backward(Problem<Type>& p, const std::string& what) {
  using S = typename Storage<Type>::S;
  using T = typename Storage<Type>::T;
  const int64_t per_group = 5, O = per_group * p.s.groups, run = p.tile.run, stride = O + 2;
  Random random{11};
  Buffer<T> weight(O * p.K * run), grad_weight(O * p.K * run, 0.5);
  Buffer<S> grad((p.positions - 1) * stride + O);
  std::vector<double> u(p.positions * O), columns_grad(p.positions * p.K * p.s.channels), expected(O * p.K * run);
  for (int64_t i = 0; i < weight.size; ++i) weight[i] = T(random(1));
  for (int64_t i = 0; i < p.positions * O; ++i) {
    u[i] = random(1);
    grad[i / O * stride + i % O] = Storage<Type>::encode(u[i]);
  }
  p.for_entries([&](int64_t c, int64_t k, int64_t i) {
    const double v = p.modulation(p.group(c), k, i) * p.value(c, k, i);
    const int64_t first = c / run * per_group;
    for (int64_t o = first; o < first + per_group; ++o) {
      const int64_t w = (o * p.K + k) * run + c % run;
      columns_grad[p.column(c, k, i)] += u[i * O + o] * double(weight[w]);
      expected[w] += u[i * O + o] * v;
    }
  });
  Results<Type> results(p, grad.data(), stride, 1);
  results.described.weight = grad_weight.data();
  for (int round : {1, 2}) {
    const int status = kernels->deform_conv_backward(&p.tile, Type, p.image.data(), p.offset.data(), p.mask_pointer(),
                                                     weight.data(), per_group, &results.described);
    check(status == 0, what + " status");
    if (round == 1) {
      auto upstream = [&](int64_t c, int64_t k, int64_t i) { return columns_grad[p.column(c, k, i)]; };
      results.check(p, upstream, what);
      results.described.image = results.described.shares = results.described.offset = results.described.mask = nullptr;
    }
    for (int64_t i = 0; i < grad_weight.size; ++i)
      check_near(grad_weight[i], 0.5 + round * expected[i], what + " gradient of the weight");
  }
  grad_weight.check_guards(what + " grad_weight");
}

template <int Type>
void test_depthwise(Problem<Type>& p, const std::string& what) {
  using S = typename Storage<Type>::S;
  using T = typename Storage<Type>::T;
  const int64_t C = p.s.channels, stride[3] = {p.count * (C + 1), C + 1, 1};
  pliant_tile tile = p.tile;
  tile.run = 1;
  Random random{99};
  Buffer<T> weight(p.K * C), bias(C), grad_weight(p.K * C, 0.5);
  Buffer<S> output((p.positions - 1) * stride[1] + C), grad(p.positions * C);
  for (int64_t i = 0; i < weight.size; ++i) weight[i] = T(random(2));
  for (int64_t c = 0; c < C; ++c) bias[c] = T(random(2));
  for (int64_t i = 0; i < grad.size; ++i) grad[i] = Storage<Type>::encode(random(1));
  auto u = [&](int64_t i, int64_t c) { return Storage<Type>::decode(grad[i * C + c]); };
  check(kernels->deform_depthwise(&tile, Type, p.image.data(), p.offset.data(), p.mask_pointer(), weight.data(),
                                  bias.data(), output.data(), stride) == 0,
        what + " status");
  std::vector<double> expected(p.positions * C), grad_weight_expected(p.K * C, 0.5);
  p.for_entries([&](int64_t c, int64_t k, int64_t i) {
    const double v = p.modulation(p.group(c), k, i) * p.value(c, k, i);
    expected[i * C + c] += double(weight[k * C + c]) * v;
    grad_weight_expected[k * C + c] += u(i, c) * v;
  });
  for (int64_t i = 0; i < p.positions; ++i)
    for (int64_t c = 0; c < C; ++c) {
      const double want = expected[i * C + c] + double(bias[c]);
      const double error = std::fabs(Storage<Type>::decode(output[i * stride[1] + c]) - want);
      check(error <= tolerance<Type>() * std::fabs(want) + 2e-5 * (10 + std::fabs(want)), what + " output");
    }
  output.check_guards(what + " output");

  Results<Type> results(p, grad.data(), C, 0);
  results.described.weight = grad_weight.data();
  const int status = kernels->deform_depthwise_backward(&tile, Type, p.image.data(), p.offset.data(), p.mask_pointer(),
                                                        weight.data(), &results.described);
  check(status == 0, what + " status");
  results.check(p, [&](int64_t c, int64_t k, int64_t i) { return u(i, c) * double(weight[k * C + c]); }, what);
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
  const int64_t panels = (per_group + panel - 1) / panel, O = per_group * groups;
  const int64_t stride[3] = {p.count * (O + 2), O + 2, 1};
  Random random{7};
  Buffer<T> weight(groups * panels * rows * panel), bias(O);
  Buffer<S> output((p.positions - 1) * stride[1] + O);
  std::vector<double> expected(p.positions * O);
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
    for (int64_t i = 0; i < p.positions && sizeof(S) == sizeof(T); ++i)
      for (int64_t o = 0; o < O; ++o)
        check_near(output[i * stride[1] + o], (accumulate + 1) * expected[i * O + o] + double(bias[o]),
                   what + " output");
    output.check_guards(what + " output");
  }
}

// The same of few positions: the same bits, with weights in the order of either memory format.
template <int Type>
void test_conv_few(Problem<Type>& p, const std::string& what) {
  using S = typename Storage<Type>::S;
  using T = typename Storage<Type>::T;
  const int64_t per_group = 37, groups = p.s.groups, run = p.tile.run, panel = kernels->deform_conv_panel(Type);
  const int64_t panels = (per_group + panel - 1) / panel, O = per_group * groups;
  const int64_t size[5] = {groups, per_group, run, p.K, panel},
                strides[2][3] = {{run * p.K, p.K, 1}, {run * p.K, 1, run}};
  const int64_t stride[3] = {p.count * (O + 2), O + 2, 1};
  Random random{5};
  Buffer<T> weight(O * run * p.K), packed(groups * panels * p.K * run * panel), bias(O);
  for (int64_t i = 0; i < weight.size; ++i) weight[i] = T(random(1));
  for (int64_t o = 0; o < O; ++o) bias[o] = T(random(2));
  for (const auto& order : strides) {
    Buffer<S> expected((p.positions - 1) * stride[1] + O), output(expected.size);
    Buffer<T> columns((p.positions + 16) * p.K * p.s.channels, kNan);
    kernels->pack_weight(size, weight.data(), order, packed.data(), sizeof(T), 1);
    kernels->deform_conv(&p.tile, Type, p.image.data(), p.offset.data(), p.mask_pointer(), packed.data(), per_group,
                         bias.data(), expected.data(), stride, 0);
    const int status =
        kernels->deform_conv_few(&p.tile, Type, p.image.data(), p.offset.data(), p.mask_pointer(), weight.data(), order,
                                 per_group, bias.data(), columns.data(), output.data(), stride);
    check(status == 0, what + " status");
    for (int64_t i = 0; i < output.size; ++i)
      check(Storage<Type>::decode(output[i]) == Storage<Type>::decode(expected[i]), what + " output");
    output.check_guards(what + " output");
    columns.check_guards(what + " columns");
  }
}

template <class T>
void test_transpose(int64_t rows, int64_t columns, int64_t threads) {
  const int64_t matrices = 2, size[3] = {matrices, rows, columns};
  const int64_t from[2] = {rows * (columns + 3) + 1, columns + 3}, to[2] = {columns * (rows + 2) + 3, rows + 2};
  Buffer<T> source(matrices * from[0]), result(matrices * to[0], T(-1));
  for (int64_t i = 0; i < source.size; ++i) source[i] = T(i);
  kernels->transpose(size, source.data(), from, result.data(), to, sizeof(T), threads);
  std::vector<T> expected(result.size, T(-1));  // also in all gaps
  for (int64_t n = 0; n < matrices; ++n)
    for (int64_t c = 0; c < columns; ++c)
      for (int64_t r = 0; r < rows; ++r) expected[n * to[0] + c * to[1] + r] = T(n * from[0] + r * from[1] + c);
  for (int64_t i = 0; i < result.size; ++i) check(result[i] == expected[i], "transpose");
  result.check_guards("transpose");
}

// Weights in the order of `axes`, the innermost first, where 0 is the output, 1 the channel and 2 the tap.
template <class T>
void test_pack_weight(int64_t outputs, int64_t channels, const std::vector<int>& axes, int64_t threads) {
  const int64_t groups = 2, taps = 6, panel = 8, panels = (outputs + panel - 1) / panel;
  const int64_t size[5] = {groups, outputs, channels, taps, panel}, lengths[3] = {groups * outputs, channels, taps};
  int64_t stride[3], items = 1;
  for (int axis : axes) {
    stride[axis] = items;
    items *= lengths[axis];
  }
  Buffer<T> source(items), packed(groups * panels * taps * channels * panel, -1);
  for (int64_t i = 0; i < items; ++i) source[i] = T(i + 1);
  kernels->pack_weight(size, source.data(), stride, packed.data(), sizeof(T), threads);
  int64_t i = 0;
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t first = 0; first < panels * panel; first += panel)
      for (int64_t k = 0; k < taps; ++k)
        for (int64_t c = 0; c < channels; ++c)
          for (int64_t o = first; o < first + panel; ++o) {
            const int64_t at = (g * outputs + o) * stride[0] + c * stride[1] + k * stride[2];
            check(packed[i++] == (o < outputs ? T(at + 1) : T(0)), "pack_weight");
          }
  packed.check_guards("pack_weight");
}

template <int Type>
void test_type(const Shape& shape, int64_t threads, const std::string& what) {
  Problem<Type> p(shape, threads);
  test_sample(p, what + " sample");
  test_sample_backward(p, what + " sample_backward");
  test_conv(p, what + " conv");
  test_conv_few(p, what + " conv_few");
  test_conv_backward(p, what + " conv_backward");
  test_depthwise(p, what + " depthwise");
}

// Stands for GOMP_parallel: runs the function once on each of a team of threads.
void team(void (*function)(void*), void* data, unsigned threads, unsigned) {
  std::vector<std::thread> others;
  for (unsigned i = 1; i < threads; ++i) others.emplace_back(function, data);
  function(data);
  for (auto& other : others) other.join();
}

// For ctest: the processor lacks the instruction set that was named.
constexpr int kSkipped = 77;

// What Linux says of the processor; elsewhere nothing is said. The library asks the processor itself.
[[maybe_unused]] bool listed(const std::string& flag) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string word; file >> word;)
    if (word == flag) return true;
  return false;
}

}  // namespace

// Run the tests with the kernels of one instruction set, `native_test avx2`, where the processor has it, or of all.
int main(int count, char** arguments) {
#if defined(__x86_64__)
  check(!listed("avx2") || pliant_kernels_for("avx2"), "AVX2 is there and is used");
  check(!listed("avx512bw") || pliant_kernels_for("avx512"), "AVX-512 is there and is used");
#endif
  if (count > 1 && pliant_kernels_for(arguments[1]) == nullptr) return failures ? EXIT_FAILURE : kSkipped;
  check(pliant_abi_version() == PLIANT_ABI_VERSION, "the interface's version");
  check(pliant_kernels_for("no such set") == nullptr, "an unknown instruction set is refused");
  const std::string best = pliant_kernels_for(nullptr)->instruction_set;
  std::string widest;
  for (const char* set : {"baseline", "avx2", "avx512"}) {
    kernels = pliant_kernels_for(set);
    if (kernels == nullptr) continue;
    widest = set;
    if (count > 1 && std::string(arguments[1]) != set) continue;
    check(std::string(kernels->instruction_set) == set, "the kernels are of the set that was named");
    for (int64_t threads : {1, 3}) {
      pliant_set_parallel_region(threads == 1 ? nullptr : team);
      for (int64_t rows : {1, 7, 16, 65})
        for (int64_t columns : {1, 8, 33, 130}) {
          test_transpose<uint16_t>(rows, columns, threads);
          test_transpose<float>(rows, columns, threads);
          test_transpose<double>(rows, columns, threads);
        }
      for (int64_t outputs : {1, 8, 12, 21})
        for (int64_t channels : {1, 5, 16, 35})
          for (const std::vector<int>& axes : {std::vector<int>{1, 2, 0}, {2, 1, 0}, {0, 2, 1}}) {
            test_pack_weight<float>(outputs, channels, axes, threads);
            test_pack_weight<double>(outputs, channels, axes, threads);
          }
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
