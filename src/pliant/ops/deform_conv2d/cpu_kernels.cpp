// SPDX-License-Identifier: Apache-2.0
// The loops of deformable convolution. Compiled once for each instruction set, as namespace PLIANT_ISA.
#include "cpu_kernels.h"

#include "../_native/parallel.h"
#include "cpu_plan.h"

namespace pliant {
namespace PLIANT_ISA {
namespace {

constexpr int64_t kPositionsPerTask = 64;

template <class T>
constexpr int kLanes = kVectorBytes / int(sizeof(T));

PLIANT_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Channel slice i of n: whole vectors, so that slices do not share cache lines.
PLIANT_INLINE int64_t slice_begin(int64_t channels, int64_t slice, int64_t slices) {
  constexpr int64_t unit = 16;
  return slice == slices ? channels : smaller(channels, (channels * slice / slices + unit / 2) / unit * unit);
}

template <class T, class S>
struct Corners {
  const S* pixel[4];
  T weight[4];

  Corners() = default;
  PLIANT_MEMBER Corners(const S* image, int64_t pixel_stride, const Sample<T>& s) {
    for (int i = 0; i < 4; ++i) {
      pixel[i] = image + s.pixel[i] * pixel_stride;
      weight[i] = s.weight(i);
    }
  }
  PLIANT_MEMBER void scale(T factor) {
    for (int i = 0; i < 4; ++i) weight[i] *= factor;
  }
  template <int L>
  PLIANT_MEMBER vec<T, L> value(lanes<L> n, int64_t c) const {
    return load(pixel[0] + c, n) * weight[0] + load(pixel[1] + c, n) * weight[1] + load(pixel[2] + c, n) * weight[2] +
           load(pixel[3] + c, n) * weight[3];
  }
};

// --- forward: columns -------------------------------------------------------------------------------------------

template <class T, class S, class Column>
void sample_columns(const pliant_tile& tile, const S* image, const T* offset, const T* mask, Column* columns) {
  const int64_t taps = tile.kernel[0] * tile.kernel[1], row = taps * tile.channels, run = tile.run;
  const int64_t tasks = (tile.count + kPositionsPerTask - 1) / kPositionsPerTask;
  parallel_for(tasks, tile.threads, [&](int64_t task) {
    const int64_t begin = task * kPositionsPerTask, end = smaller(tile.count, begin + kPositionsPerTask);
    for_plans(tile, offset, mask, begin, end, 0, tile.channels,
              [&](const Plan<T>& plan, int64_t, int64_t c_begin, int64_t c_end, int64_t first) {
                for (int64_t i = 0; i < plan.positions; ++i) {
                  for (int64_t k = plan.tap_begin; k < plan.tap_end; ++k) {
                    const Sample<T>& s = plan.at(i, k);
                    for (int64_t c = c_begin; c < c_end;) {
                      const int64_t r = c / run, stop = smaller(c_end, (r + 1) * run);
                      // Element c of the image goes to destination[c].
                      Column* destination = columns + (first + i) * row + (r * taps + k) * run - r * run;
                      if (!s.is_inside()) {
                        __builtin_memset(destination + c, 0, (stop - c) * sizeof(Column));
                      } else {
                        Corners<T, S> corners(image, tile.pixel_stride, s);
                        corners.scale(s.modulation);
                        for_channels<kLanes<T>>(c, stop, [&](auto n, int64_t j) {
                          store(destination + j, corners.value(n, j), n);
                        });
                      }
                      c = stop;
                    }
                  }
                }
              });
  });
}

// --- backward ---------------------------------------------------------------------------------------------------

template <class T>
struct Dots {
  Sum<T, kLanes<T>> corner[4];  // sum over channels of (gradient of the column) * (pixel)

  // Writes the gradients of (dy, dx, mask), see reference_backward.py.
  PLIANT_MEMBER void write(const Sample<T>& s, T* result) const {
    T dot[4];
    for (int i = 0; i < 4; ++i) dot[i] = corner[i].total();
    const T *wy = s.row_weight, *wx = s.column_weight, *ey = s.row_exists, *ex = s.column_exists;
    const T top = wx[0] * dot[0] + wx[1] * dot[1], bottom = wx[0] * dot[2] + wx[1] * dot[3];
    const T left = wy[0] * dot[0] + wy[1] * dot[2], right = wy[0] * dot[1] + wy[1] * dot[3];
    result[0] += s.modulation * (ey[1] * bottom - ey[0] * top);
    result[1] += s.modulation * (ex[1] * right - ex[0] * left);
    result[2] += wy[0] * top + wy[1] * bottom;
  }
};

// One sample's share of all gradients, for the channels at j. `g` is the gradient of the column. The pixels of one sample
// can coincide at the border, so each is read, added to and written before the next. Returns x(q) * dm.
template <class T, class S, int L>
PLIANT_INLINE vec<T, L> spread(const Corners<T, S>& corners, T modulation, T* const grad_pixel[4], lanes<L> n, int64_t j,
                               vec<T, L> g, Dots<T>& dots) {
  vec<T, L> value = {};
  const vec<T, L> scaled = g * modulation;
  for (int i = 0; i < 4; ++i) {
    const vec<T, L> pixel = load(corners.pixel[i] + j, n);
    dots.corner[i].add(g * pixel, n);
    value += pixel * corners.weight[i];
    store(grad_pixel[i] + j, load(grad_pixel[i] + j, n) + scaled * corners.weight[i], n);
  }
  return value * modulation;
}

// The parts of a backward pass that all its loops share.
template <class T, class S>
struct Backward {
  const pliant_tile& tile;
  const S* image;
  const T *offset, *mask;
  T* grad_image;
  int64_t grad_pixel_stride;
  T* partial;
  int64_t slices, offset_groups;

  // Calls body(sample, position, tap, c_begin, c_end, result) for each sample of each channel slice, in parallel over slices.
  template <class Body>
  void for_samples(const Body& body) const {
    const int64_t taps = tile.kernel[0] * tile.kernel[1], per_position = offset_groups * taps * 3;
    parallel_for(slices, tile.threads, [&](int64_t slice) {
      T* share = partial + slice * tile.count * per_position;
      __builtin_memset(share, 0, tile.count * per_position * sizeof(T));
      const int64_t from = slice_begin(tile.channels, slice, slices), to = slice_begin(tile.channels, slice + 1, slices);
      for_plans(tile, offset, mask, 0, tile.count, from, to,
                [&](const Plan<T>& plan, int64_t group, int64_t c_begin, int64_t c_end, int64_t first) {
                  for (int64_t i = 0; i < plan.positions; ++i)
                    for (int64_t k = plan.tap_begin; k < plan.tap_end; ++k)
                      body(plan.at(i, k), first + i, k, c_begin, c_end,
                           share + (first + i) * per_position + (group * taps + k) * 3);
                });
    });
  }

  PLIANT_MEMBER void grad_pixels(const Sample<T>& s, T* pixels[4]) const {
    for (int i = 0; i < 4; ++i) pixels[i] = grad_image + s.pixel[i] * grad_pixel_stride;
  }
};

template <class T, class S>
void sample_columns_backward(const Backward<T, S>& pass, T* columns) {
  const pliant_tile& tile = pass.tile;
  const int64_t taps = tile.kernel[0] * tile.kernel[1], row = taps * tile.channels, run = tile.run;
  pass.for_samples([&](const Sample<T>& s, int64_t position, int64_t k, int64_t c_begin, int64_t c_end, T* result) {
    Dots<T> dots;
    for (int64_t c = c_begin; c < c_end;) {
      const int64_t r = c / run, stop = smaller(c_end, (r + 1) * run);
      T* column = columns + position * row + (r * taps + k) * run - r * run;
      if (!s.is_inside()) {
        __builtin_memset(column + c, 0, (stop - c) * sizeof(T));
      } else {
        const Corners<T, S> corners(pass.image, pass.tile.pixel_stride, s);
        T* pixels[4];
        pass.grad_pixels(s, pixels);
        for_channels<kLanes<T>>(c, stop, [&](auto n, int64_t j) {
          store(column + j, spread(corners, s.modulation, pixels, n, j, load(column + j, n), dots), n);
        });
      }
      c = stop;
    }
    if (s.is_inside()) dots.write(s, result);
  });
}

// --- depthwise --------------------------------------------------------------------------------------------------

template <class T, class S>
struct Tap {
  Corners<T, S> corners;
  const T* weight;
};

template <class T, class S>
void depthwise(const pliant_tile& tile, const S* image, const T* offset, const T* mask, const T* weight, const T* bias,
               T* output, int64_t output_stride) {
  const int64_t tasks = (tile.count + kPositionsPerTask - 1) / kPositionsPerTask;
  parallel_for(tasks, tile.threads, [&](int64_t task) {
    const int64_t begin = task * kPositionsPerTask, end = smaller(tile.count, begin + kPositionsPerTask);
    for_plans(tile, offset, mask, begin, end, 0, tile.channels,
              [&](const Plan<T>& plan, int64_t, int64_t c_begin, int64_t c_end, int64_t first) {
                Tap<T, S> inside[kPlanSize];
                for (int64_t i = 0; i < plan.positions; ++i) {
                  int64_t count = 0;
                  for (int64_t k = plan.tap_begin; k < plan.tap_end; ++k) {
                    const Sample<T>& s = plan.at(i, k);
                    if (!s.is_inside()) continue;
                    inside[count] = {Corners<T, S>(image, tile.pixel_stride, s), weight + k * tile.channels};
                    inside[count++].corners.scale(s.modulation);
                  }
                  T* out = output + (first + i) * output_stride;
                  for_channels<kLanes<T>>(c_begin, c_end, [&](auto n, int64_t c) {
                    auto sum = plan.tap_begin ? load(out + c, n) : bias ? load(bias + c, n) : decltype(load(out, n)){};
                    for (int64_t k = 0; k < count; ++k) sum += inside[k].corners.value(n, c) * load(inside[k].weight + c, n);
                    store(out + c, sum, n);
                  });
                }
              });
  });
}

template <class T, class S>
void depthwise_backward(const Backward<T, S>& pass, const T* weight, const T* grad, T* grad_weight) {
  const int64_t channels = pass.tile.channels;
  pass.for_samples([&](const Sample<T>& s, int64_t position, int64_t k, int64_t c_begin, int64_t c_end, T* result) {
    if (!s.is_inside()) return;
    Dots<T> dots;
    const Corners<T, S> corners(pass.image, pass.tile.pixel_stride, s);
    T* pixels[4];
    pass.grad_pixels(s, pixels);
    const T *w = weight + k * channels, *u = grad + position * channels;
    T* gw = grad_weight + k * channels;
    for_channels<kLanes<T>>(c_begin, c_end, [&](auto n, int64_t c) {
      const auto out = load(u + c, n);
      const auto value = spread(corners, s.modulation, pixels, n, c, out * load(w + c, n), dots);
      store(gw + c, load(gw + c, n) + out * value, n);
    });
    dots.write(s, result);
  });
}

// --- from pointers to types -------------------------------------------------------------------------------------

template <class Arithmetic, class Storage>
struct Types {
  using T = Arithmetic;
  using S = Storage;
};

template <class Body>
void with_types(int image_type, const Body& body) {
  switch (image_type) {
    case PLIANT_FLOAT64:
      return body(Types<double, double>{});
    case PLIANT_BFLOAT16:
      return body(Types<float, bfloat16>{});
    case PLIANT_FLOAT16:
      return body(Types<float, float16>{});
    default:
      return body(Types<float, float>{});
  }
}

template <class T>
const T* as(const void* p) {
  return static_cast<const T*>(p);
}
template <class T>
T* as(void* p) {
  return static_cast<T*>(p);
}

void sample(const pliant_tile* tile, int image_type, int column_type, const void* image, const void* offset,
            const void* mask, void* columns) {
  if (image_type == PLIANT_BFLOAT16 && column_type == PLIANT_BFLOAT16) {
    return sample_columns(*tile, as<bfloat16>(image), as<float>(offset), as<float>(mask), as<bfloat16>(columns));
  }
  with_types(image_type, [&](auto types) {
    using T = typename decltype(types)::T;
    using S = typename decltype(types)::S;
    sample_columns(*tile, as<S>(image), as<T>(offset), as<T>(mask), as<T>(columns));
  });
}

void sample_backward(const pliant_tile* tile, int image_type, const void* image, const void* offset, const void* mask,
                     void* columns, void* grad_image, int64_t grad_pixel_stride, void* partial, int64_t slices,
                     int64_t offset_groups) {
  with_types(image_type, [&](auto types) {
    using T = typename decltype(types)::T;
    using S = typename decltype(types)::S;
    const Backward<T, S> pass = {*tile,          as<S>(image), as<T>(offset), as<T>(mask), as<T>(grad_image),
                                 grad_pixel_stride, as<T>(partial), slices, offset_groups};
    sample_columns_backward(pass, as<T>(columns));
  });
}

void depthwise_any(const pliant_tile* tile, int image_type, const void* image, const void* offset, const void* mask,
                   const void* weight, const void* bias, void* output, int64_t output_stride) {
  with_types(image_type, [&](auto types) {
    using T = typename decltype(types)::T;
    using S = typename decltype(types)::S;
    depthwise(*tile, as<S>(image), as<T>(offset), as<T>(mask), as<T>(weight), as<T>(bias), as<T>(output),
              output_stride);
  });
}

void depthwise_backward_any(const pliant_tile* tile, int image_type, const void* image, const void* offset,
                            const void* mask, const void* weight, const void* grad, void* grad_image,
                            int64_t grad_pixel_stride, void* grad_weight, void* partial, int64_t slices,
                            int64_t offset_groups) {
  with_types(image_type, [&](auto types) {
    using T = typename decltype(types)::T;
    using S = typename decltype(types)::S;
    const Backward<T, S> pass = {*tile,          as<S>(image), as<T>(offset), as<T>(mask), as<T>(grad_image),
                                 grad_pixel_stride, as<T>(partial), slices, offset_groups};
    depthwise_backward(pass, as<T>(weight), as<T>(grad), as<T>(grad_weight));
  });
}

}  // namespace

const DeformKernels kernels = {sample, sample_backward, depthwise_any, depthwise_backward_any};

}  // namespace PLIANT_ISA
}  // namespace pliant
