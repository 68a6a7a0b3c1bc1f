// SPDX-License-Identifier: Apache-2.0
// The fused backward pass. For a block of positions and some channels, in cache: the gradient of the columns is
// multiplied out, each sample then gives it to image, offset and mask and puts the column itself in its place, and the
// columns are multiplied for the gradient of the weights.
#pragma once

#include "cpu_spread.h"

namespace pliant {
namespace PLIANT_ISA {
namespace {

constexpr int64_t kBackwardRows = 192;      // positions of a block; a multiple of every kRows
constexpr int64_t kWeightBytes = 4 << 20;   // of a task's weights, and of their gradient, in a thread's scratch memory
constexpr int64_t kBackwardOutputs = 2040;  // of one weight group at a time; a multiple of every kRows

// Channels [begin, end) of a sample, whose gradient of the column gives way to the column.
template <class T, class S, class D>
PLIANT_INLINE void give(Spread<T, S>& sample, D* column, int64_t begin, int64_t end) {
  sample.add(
      begin, end, [&](auto n, int64_t c) { return load(column + c, n); },
      [&](auto n, int64_t c, auto value) { store(column + c, value, n); });
}

template <class T, class S>
struct ConvolutionBackward {
  Backward<T, S> pass;
  const T* weight;  // (weight groups, outputs, taps, run)
  int64_t outputs;  // of each weight group
  bool needs_samples;
  const pliant_tile& tile = pass.tile;
  const Units& units = pass.units;
  int64_t taps = pass.taps;
  // Of one weight group's part of a unit: its columns, as whole panels.
  int64_t width = smaller(tile.run, units.unit), part_columns = round_up(taps * width, kPanel<T>);
  int64_t most = smaller(kBackwardOutputs, kWeightBytes / int64_t(sizeof(T)) / part_columns / units.groups());
  int64_t at_once = round_up(smaller(outputs, most > kRows ? most : kRows), kRows);  // outputs
  bool keeps = at_once >= outputs;  // a task's weights and their gradient in scratch memory for all its blocks
  int64_t matrix_of_unit = at_once * part_columns * (keeps ? units.groups() : 1);
  int64_t units_of_task = units.of_task(tile.threads, units_that_fit());
  int64_t tasks = parts(units.count(), units_of_task);
  int64_t column_stride = units_of_task * units.groups() * part_columns + 16;
  int64_t rows = smaller(kBackwardRows, round_up(pass.count, kRows)), grad_stride = at_once + 16;
  int64_t matrix = matrix_of_unit * (keeps ? units_of_task : 1);

  // Into kWeightBytes.
  int64_t units_that_fit() const {
    const int64_t fit = kWeightBytes / int64_t(sizeof(T)) / matrix_of_unit;
    return keeps ? larger(1, smaller(fit, kUnitsOfTask)) : kUnitsOfTask;
  }
  int64_t scratch_size() const { return rows * (column_stride + grad_stride) + 2 * matrix; }

  int run() const {
    const int64_t threads = smaller(tile.threads, tasks);
    const Scratch scratch(threads, scratch_size() * sizeof(T));
    if (scratch.missing()) return -1;
    parallel_for(tasks, threads, [&](int64_t number, int64_t worker) {
      channels(Task(units, number, units_of_task), scratch.of<T>(worker));
    });
    if (pass.partial) pass.reduce();
    return 0;
  }

  struct Memory {
    T *columns, *grad, *weights, *grad_weights;
    const S* copied = nullptr;  // what `grad` is a copy of
  };

  // A part of a task: channels of one weight group, in one unit.
  struct Part {
    int64_t number, group, begin, size;  // `begin` of its channels in the group
  };

  template <class Body>
  PLIANT_MEMBER void for_parts(const Range& c, const Body& body) const {
    int64_t number = 0;
    for (int64_t begin = c.begin; begin < c.end; ++number) {
      const int64_t group = begin / tile.run, end = smaller((group + 1) * tile.run, begin + width);
      body(Part{number, group, begin - group * tile.run, end - begin});
      begin = end;
    }
  }

  // All positions of a task's channels, block by block.
  void channels(const Task& task, T* memory) const {
    const Range c = task.channels();
    Memory m = {memory, memory + rows * column_stride, memory + rows * (column_stride + grad_stride),
                memory + rows * (column_stride + grad_stride) + matrix};
    if (keeps) {
      __builtin_memset(m.grad_weights, 0, matrix * sizeof(T));
      if (needs_samples) for_parts(c, [&](const Part& part) { pack(part, 0, outputs, part_of(m.weights, part)); });
    }
    pass.clear(c);
    for (int64_t begin = 0; begin < pass.count; begin += rows) {
      const Range positions = {begin, smaller(pass.count, begin + rows)};
      if (needs_samples) {
        for_parts(c, [&](const Part& part) { multiply_back(part, positions, m); });
        spread(task, positions, m.columns);
      } else {
        for_parts(c, [&](const Part& part) { sample(part, positions, m.columns); });
      }
      if (pass.result.weight) for_parts(c, [&](const Part& part) { multiply_outer(part, positions, m); });
    }
    pass.write_image(c);
    if (keeps && pass.result.weight)
      for_parts(c, [&](const Part& part) { unpack(part, 0, outputs, part_of(m.grad_weights, part)); });
  }

  PLIANT_MEMBER T* part_of(T* matrices, const Part& part) const {
    return matrices + (keeps ? part.number * at_once * part_columns : 0);
  }

  // packed (panels, outputs, panel) = the part's weights of outputs [first, last).
  void pack(const Part& part, int64_t first, int64_t last, T* packed) const {
    const int64_t count = last - first;
    for (int64_t o = 0; o < count; ++o)
      for (int64_t k = 0; k < taps; ++k) {
        const T* from = weight + ((part.group * outputs + first + o) * taps + k) * tile.run + part.begin;
        for (int64_t c = 0, j = k * part.size; c < part.size;) {
          const int64_t run = smaller(part.size - c, kPanel<T> - j % kPanel<T>);
          __builtin_memcpy(packed + (j / kPanel<T> * count + o) * kPanel<T> + j % kPanel<T>, from + c, run * sizeof(T));
          c += run;
          j += run;
        }
      }
    const int64_t end = taps * part.size, last_panel = (end - 1) / kPanel<T>;
    for (int64_t o = 0; o < count; ++o)
      for (int64_t j = end; j < (last_panel + 1) * kPanel<T>; ++j)
        packed[(last_panel * count + o) * kPanel<T> + j % kPanel<T>] = 0;
  }

  // Adds the sums of a part, (outputs, part_columns), to the gradient of the weights.
  void unpack(const Part& part, int64_t first, int64_t last, const T* sums) const {
    T* to = static_cast<T*>(pass.result.weight);
    for (int64_t o = first; o < last; ++o)
      for (int64_t k = 0; k < taps; ++k) {
        T* row = to + ((part.group * outputs + o) * taps + k) * tile.run + part.begin;
        const T* from = sums + (o - first) * part_columns + k * part.size;
        for (int64_t c = 0; c < part.size; ++c) row[c] += from[c];
      }
  }

  // Copies the gradient of outputs [first, last) of a block into (rows, grad_stride), with zeros around, unless it is
  // there.
  void copy_grad(const Part& part, const Range& positions, int64_t first, int64_t last, Memory& m) const {
    const auto source = [&](int64_t position) {
      return pass.upstream(position / tile.count, position) + part.group * outputs + first;
    };
    if (m.copied == source(positions.begin)) return;
    m.copied = source(positions.begin);
    for (int64_t p = 0; p < rows; ++p) {
      T* row = m.grad + p * grad_stride;
      if (p >= positions.size()) {
        __builtin_memset(row, 0, grad_stride * sizeof(T));
        continue;
      }
      const S* from = source(positions.begin + p);
      for_channels<kLanes<T>>(0, last - first, [&](auto n, int64_t o) { store(row + o, load(from + o, n), n); });
      for (int64_t o = last - first; o < round_up(last - first, kRows); ++o) row[o] = 0;
    }
  }

  // columns = gradient of the output * weights.
  void multiply_back(const Part& part, const Range& positions, Memory& m) const {
    for (int64_t first = 0; first < outputs; first += at_once) {
      const int64_t last = smaller(outputs, first + at_once), count = last - first;
      const T* packed = part_of(m.weights, part);
      if (!keeps) pack(part, first, last, m.weights);
      copy_grad(part, positions, first, last, m);
      const auto multiply = first == 0 ? multiply_panel<false, false, T> : multiply_panel<false, true, T>;
      for (int64_t j = 0; j < taps * part.size; j += kPanel<T>)
        for (int64_t p = 0; p < positions.size(); p += kRows)
          multiply(m.grad + p * grad_stride, grad_stride, packed + j * count, kPanel<T>, count,
                   m.columns + p * column_stride + part.number * part_columns + j, column_stride);
    }
  }

  // gradient of the weights += gradient of the output, transposed, * columns.
  void multiply_outer(const Part& part, const Range& positions, Memory& m) const {
    for (int64_t first = 0; first < outputs; first += at_once) {
      const int64_t last = smaller(outputs, first + at_once);
      T* sums = part_of(m.grad_weights, part);
      if (!keeps) __builtin_memset(sums, 0, matrix * sizeof(T));
      copy_grad(part, positions, first, last, m);
      for (int64_t j = 0; j < taps * part.size; j += kPanel<T>)
        for (int64_t o = 0; o < last - first; o += kRows)
          multiply_panel<true, true, T>(m.grad + o, grad_stride, m.columns + part.number * part_columns + j,
                                        column_stride, positions.size(), sums + o * part_columns + j, part_columns);
      if (!keeps) unpack(part, first, last, sums);
    }
  }

  void spread(const Task& task, const Range& positions, T* columns) const {
    // Calls body(column, begin, end) for the channels [begin, end) of each weight group; column[c] is a channel's.
    const auto for_groups = [&](const Place& place, const auto& body) {
      T* row = columns + (place.position - positions.begin) * column_stride;
      const Range unit = task.unit[place.unit];
      const int64_t size = smaller(unit.size(), width);
      for (int64_t begin = place.channels.begin; begin < place.channels.end;) {
        const int64_t number = (begin - unit.begin) / size, part = place.unit * units.groups() + number;
        const int64_t first = unit.begin + number * size, stop = smaller(place.channels.end, first + size);
        body(row + part * part_columns + place.tap * size - first, begin, stop);
        begin = stop;
      }
    };
    pass.for_samples(
        task, positions,
        [&](Spread<T, S>& sample, const Place& place) {
          for_groups(place, [&](T* column, int64_t begin, int64_t end) { give(sample, column, begin, end); });
        },
        [&](const Place& place) {
          for_groups(place, [&](T* column, int64_t begin, int64_t end) {
            __builtin_memset(column + begin, 0, (end - begin) * sizeof(T));
          });
        });
  }

  void sample(const Part& part, const Range& positions, T* columns) const {
    const int64_t begin = part.group * tile.run + part.begin;
    sample_block<T>(tile, pass.image, pass.offset, pass.mask,
                    {positions.begin, positions.end, 0, taps, begin, begin + part.size},
                    columns + part.number * part_columns, column_stride, part.size);
  }
};

// The same with products that are made elsewhere: `columns`, (positions, weight groups, taps, run), is their gradient,
// and becomes the columns.
template <class T, class S>
int columns_backward(const Backward<T, S>& pass, S* columns) {
  const pliant_tile& tile = pass.tile;
  const int64_t run = tile.run, each = pass.units.of_task(tile.threads);
  const auto for_groups = [&](const Place& place, const auto& body) {
    for (int64_t begin = place.channels.begin; begin < place.channels.end;) {
      const int64_t group = begin / run, stop = smaller(place.channels.end, (group + 1) * run);
      body(columns + (place.position * tile.channels + group * run) * pass.taps + (place.tap - group) * run, begin,
           stop);
      begin = stop;
    }
  };
  parallel_for(parts(pass.units.count(), each), tile.threads, [&](int64_t number, int64_t) {
    const Task task(pass.units, number, each);
    pass.clear(task.channels());
    pass.for_samples(
        task, {0, pass.count},
        [&](Spread<T, S>& sample, const Place& place) {
          for_groups(place, [&](S* column, int64_t begin, int64_t end) { give(sample, column, begin, end); });
        },
        [&](const Place& place) {
          for_groups(place, [&](S* column, int64_t begin, int64_t end) {
            __builtin_memset(column + begin, 0, (end - begin) * sizeof(S));
          });
        });
    pass.write_image(task.channels());
  });
  if (pass.partial) pass.reduce();
  return 0;
}

}  // namespace
}  // namespace PLIANT_ISA
}  // namespace pliant
