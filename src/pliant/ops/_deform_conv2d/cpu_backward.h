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

template <class T, class S>
struct ConvolutionBackward {
  Backward<T, S> pass;
  const T* weight;  // (weight groups, outputs, taps, run)
  int64_t outputs;  // of each weight group
  bool needs_samples;
  const pliant_tile& tile = pass.tile;
  const Units& units = pass.units;
  int64_t taps = pass.taps;
  // Of one weight group's part of a task: its columns, as whole panels.
  int64_t width = smaller(tile.run, units.unit), part_columns = round_up(taps * width, kPanel<T>);
  int64_t column_stride = units.groups() * part_columns + 16;
  int64_t most = smaller(kBackwardOutputs, kWeightBytes / int64_t(sizeof(T)) / part_columns / units.groups());
  int64_t at_once = round_up(smaller(outputs, most > kRows ? most : kRows), kRows);  // outputs
  bool keeps = at_once >= outputs;  // a task's weights and their gradient in scratch memory for all its blocks
  int64_t rows = smaller(kBackwardRows, round_up(pass.count, kRows)), grad_stride = at_once + 16;
  int64_t matrix = at_once * part_columns * (keeps ? units.groups() : 1);

  int64_t scratch_size() const { return rows * (column_stride + grad_stride) + 2 * matrix; }

  int run() const {
    const int64_t tasks = units.count(), threads = smaller(tile.threads, tasks);
    const Scratch scratch(threads, scratch_size() * sizeof(T));
    if (scratch.missing()) return -1;
    parallel_for(tasks, threads, [&](int64_t task, int64_t worker) { channels(task, scratch.of<T>(worker)); });
    if (pass.partial) pass.reduce();
    return 0;
  }

  struct Memory {
    T *columns, *grad, *weights, *grad_weights;
  };

  // A part of a task: channels of one weight group.
  struct Part {
    int64_t number, group, begin, size;  // `begin` of its channels in the group
  };

  template <class Body>
  PLIANT_MEMBER void for_parts(const Range& c, const Body& body) const {
    int64_t number = 0;
    for (int64_t begin = c.begin; begin < c.end; ++number) {
      const int64_t group = begin / tile.run, end = smaller(c.end, (group + 1) * tile.run);
      body(Part{number, group, begin - group * tile.run, end - begin});
      begin = end;
    }
  }

  // All positions of a task's channels, block by block.
  void channels(int64_t task, T* memory) const {
    const Range c = units.at(task);
    const Memory m = {memory, memory + rows * column_stride, memory + rows * (column_stride + grad_stride),
                      memory + rows * (column_stride + grad_stride) + matrix};
    if (keeps) {
      __builtin_memset(m.grad_weights, 0, matrix * sizeof(T));
      if (needs_samples) for_parts(c, [&](const Part& part) { pack(part, 0, outputs, part_of(m.weights, part)); });
    }
    for (int64_t begin = 0; begin < pass.count; begin += rows) {
      const Range positions = {begin, smaller(pass.count, begin + rows)};
      if (needs_samples) {
        __builtin_memset(m.columns, 0, rows * column_stride * sizeof(T));
        for_parts(c, [&](const Part& part) { multiply_back(part, positions, m); });
        spread(task, c, positions, m.columns);
      } else {
        for_parts(c, [&](const Part& part) { sample(part, positions, m.columns); });
      }
      if (pass.result.weight) for_parts(c, [&](const Part& part) { multiply_outer(part, positions, m); });
    }
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
        for (int64_t c = 0, j = k * part.size; c < part.size; ++c, ++j)
          packed[(j / kPanel<T> * count + o) * kPanel<T> + j % kPanel<T>] = from[c];
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

  // Copies the gradient of outputs [first, last) of a block into (rows, grad_stride), with zeros around.
  void copy_grad(const Part& part, const Range& positions, int64_t first, int64_t last, T* to) const {
    for (int64_t p = 0; p < rows; ++p) {
      T* row = to + p * grad_stride;
      if (p >= positions.size()) {
        __builtin_memset(row, 0, grad_stride * sizeof(T));
        continue;
      }
      const int64_t position = positions.begin + p;
      const S* source = pass.upstream(position / tile.count, position) + part.group * outputs + first;
      for_channels<kLanes<T>>(0, last - first, [&](auto n, int64_t o) { store(row + o, load(source + o, n), n); });
      for (int64_t o = last - first; o < round_up(last - first, kRows); ++o) row[o] = 0;
    }
  }

  // columns += gradient of the output * weights.
  void multiply_back(const Part& part, const Range& positions, const Memory& m) const {
    for (int64_t first = 0; first < outputs; first += at_once) {
      const int64_t last = smaller(outputs, first + at_once), count = last - first;
      const T* packed = part_of(m.weights, part);
      if (!keeps) pack(part, first, last, m.weights);
      copy_grad(part, positions, first, last, m.grad);
      for (int64_t j = 0; j < taps * part.size; j += kPanel<T>)
        for (int64_t p = 0; p < positions.size(); p += kRows)
          multiply_panel<false>(m.grad + p * grad_stride, grad_stride, packed + j * count, kPanel<T>, count,
                                m.columns + p * column_stride + part.number * part_columns + j, column_stride);
    }
  }

  // gradient of the weights += gradient of the output, transposed, * columns.
  void multiply_outer(const Part& part, const Range& positions, const Memory& m) const {
    for (int64_t first = 0; first < outputs; first += at_once) {
      const int64_t last = smaller(outputs, first + at_once);
      T* sums = part_of(m.grad_weights, part);
      if (!keeps) __builtin_memset(sums, 0, matrix * sizeof(T));
      copy_grad(part, positions, first, last, m.grad);
      for (int64_t j = 0; j < taps * part.size; j += kPanel<T>)
        for (int64_t o = 0; o < last - first; o += kRows)
          multiply_panel<true, T>(m.grad + o, grad_stride, m.columns + part.number * part_columns + j, column_stride,
                                  positions.size(), sums + o * part_columns + j, part_columns);
      if (!keeps) unpack(part, first, last, sums);
    }
  }

  void spread(int64_t task, const Range& c, const Range& positions, T* columns) const {
    const Block block = {positions.begin, positions.end, 0, taps, c.begin, c.end};
    // Calls body(column, begin, end) for the channels [begin, end) of each weight group; column[c] is a channel's.
    const auto for_groups = [&](int64_t position, int64_t k, int64_t c_begin, int64_t c_end, const auto& body) {
      T* row = columns + (position - positions.begin) * column_stride;
      const int64_t size = smaller(c.size(), width);
      for (int64_t begin = c_begin; begin < c_end;) {
        const int64_t number = (begin - c.begin) / size, stop = smaller(c_end, c.begin + (number + 1) * size);
        body(row + number * part_columns + k * size - c.begin - number * size, begin, stop);
        begin = stop;
      }
    };
    pass.for_samples(
        task, block,
        [&](Spread<T, S>& sample, int64_t, int64_t position, int64_t k, int64_t c_begin, int64_t c_end) {
          for_groups(position, k, c_begin, c_end, [&](T* column, int64_t begin, int64_t end) {
            for_channels<kLanes<T>>(
                begin, end, [&](auto n, int64_t j) { store(column + j, sample.add(n, j, load(column + j, n)), n); });
          });
        },
        [&](int64_t position, int64_t k, int64_t c_begin, int64_t c_end) {
          for_groups(position, k, c_begin, c_end, [&](T* column, int64_t begin, int64_t end) {
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
  const int64_t run = tile.run;
  const auto for_groups = [&](int64_t position, int64_t k, int64_t c_begin, int64_t c_end, const auto& body) {
    for (int64_t begin = c_begin; begin < c_end;) {
      const int64_t group = begin / run, stop = smaller(c_end, (group + 1) * run);
      body(columns + (position * tile.channels + group * run) * pass.taps + (k - group) * run, begin, stop);
      begin = stop;
    }
  };
  parallel_for(pass.units.count(), tile.threads, [&](int64_t task, int64_t) {
    const Range c = pass.units.at(task);
    pass.for_samples(
        task, {0, pass.count, 0, pass.taps, c.begin, c.end},
        [&](Spread<T, S>& sample, int64_t, int64_t position, int64_t k, int64_t c_begin, int64_t c_end) {
          for_groups(position, k, c_begin, c_end, [&](S* column, int64_t begin, int64_t end) {
            for_channels<kLanes<T>>(
                begin, end, [&](auto n, int64_t j) { store(column + j, sample.add(n, j, load(column + j, n)), n); });
          });
        },
        [&](int64_t position, int64_t k, int64_t c_begin, int64_t c_end) {
          for_groups(position, k, c_begin, c_end, [&](S* column, int64_t begin, int64_t end) {
            __builtin_memset(column + begin, 0, (end - begin) * sizeof(S));
          });
        });
  });
  if (pass.partial) pass.reduce();
  return 0;
}

}  // namespace
}  // namespace PLIANT_ISA
}  // namespace pliant
