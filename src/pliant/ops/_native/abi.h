// SPDX-License-Identifier: Apache-2.0
// The C interface of pliant's CPU library: raw pointers and sizes, nothing of PyTorch.
// `library.py` declares the same structs and functions once more for ctypes; ABI_VERSION guards the pair.
#pragma once

#include <stdint.h>

#if defined(_WIN32)
#define PLIANT_API __declspec(dllexport)
#else
#define PLIANT_API __attribute__((visibility("default")))
#endif

#define PLIANT_ABI_VERSION 9

#ifdef __cplusplus
extern "C" {
#endif

// Exported are the functions marked PLIANT_API. All others are types of functions, of which there is one for each
// instruction set; `pliant_kernels`, at the end, has their addresses.

// What the numbers behind a pointer are. Half types are storage only: arithmetic is float.
enum pliant_type { PLIANT_FLOAT32 = 0, PLIANT_FLOAT64 = 1, PLIANT_BFLOAT16 = 2, PLIANT_FLOAT16 = 3 };

// A run of output positions of some images, and a slice of their channels. Pairs are (vertical, horizontal).
// "Arithmetic type" below is double for float64 images and float for all others.
typedef struct pliant_tile {
  int64_t images;                 // at least one
  int64_t height, width;          // of an image
  int64_t image_stride;           // elements between images
  int64_t pixel_stride;           // elements between neighbouring pixels of an image (channels are contiguous)
  int64_t channels;               // in this slice
  int64_t run;                    // consecutive channels of the slice that share a weight group; divides `channels`
  int64_t channel_begin;          // of the slice, among all channels of an image
  int64_t offset_groups;          // of all channels of an image
  int64_t offset_group_channels;  // channels that share one offset
  int64_t out_width;              // of the output map
  int64_t first, count;           // output positions [first, first + count) of each image, row-major
  int64_t kernel[2], stride[2], padding[2], dilation[2];
  int64_t offset_stride[3];  // elements between images, between channels, and between positions, of the offset
  int64_t mask_stride[3];
  int64_t offset_type, mask_type;  // a pliant_type of each
  int64_t threads;                 // to share the work among, at most
} pliant_tile;

PLIANT_API int64_t pliant_abi_version(void);

// Hand over the parallel region of the OpenMP runtime that the process already has (GOMP_parallel's signature).
// Without one, everything runs on the calling thread.
typedef void (*pliant_parallel_region)(void (*function)(void*), void* data, unsigned threads, unsigned flags);
PLIANT_API void pliant_set_parallel_region(pliant_parallel_region region);

// destination(n, c, r) = source(n, r, c) for matrices of items of 2, 4 or 8 bytes. `size` is (matrices, rows, columns)
// of the source; strides are in items, between matrices and between lines.
typedef void pliant_transpose(const int64_t* size, const void* source, const int64_t* source_stride, void* destination,
                              const int64_t* destination_stride, int64_t item_size, int64_t threads);

// The weights of `deform_conv`, below, from those of a plain convolution: destination(g, p, k, c, o) = source(g *
// outputs + p * panel + o, c, k), and 0 where o is past the last of a group's outputs. `size` is (groups, outputs of a
// group, channels, taps, panel), `source_stride` in items of 4 or 8 bytes, between outputs, channels and taps.
typedef void pliant_pack_weight(const int64_t* size, const void* source, const int64_t* source_stride,
                                void* destination, int64_t item_size, int64_t threads);

// In what follows `offset` and `mask` point at the first image's first position, channel 0 of all groups; `mask` may be
// null. "Position" counts the positions of the tile through all its images, [0, images * count).
// Functions that return int return 0, or -1 where there is no memory for the blocks that are worked on in cache.

// The whole forward pass of a tile, sampled and multiplied block by block in cache: output(p, o) = sum over columns and
// weights, plus bias (may be null), or plus what is there if `accumulate`. `weight` is in arithmetic type, packed as
// (channels / run, panels, K * run, panel) where panels of `deform_conv_panel` outputs, padded with zeros, make up the
// `outputs` of each weight group. `output` is of the image's type, with `output_stride` elements between images,
// between positions of one and between output channels.
typedef int pliant_deform_conv(const pliant_tile* tile, int image_type, const void* image, const void* offset,
                               const void* mask, const void* weight, int64_t outputs, const void* bias, void* output,
                               const int64_t* output_stride, int accumulate);
typedef int64_t pliant_deform_conv_panel(int image_type);

// The same, bit for bit, and faster for fewer positions than outputs. The weights are those of a plain convolution, in
// arithmetic type, with `weight_stride` items between outputs, channels and taps; `columns` is memory for
// (images * count + 16, K, channels) of arithmetic type.
typedef int pliant_deform_conv_few(const pliant_tile* tile, int image_type, const void* image, const void* offset,
                                   const void* mask, const void* weight, const int64_t* weight_stride, int64_t outputs,
                                   const void* bias, void* columns, void* output, const int64_t* output_stride);

// What a backward pass reads and writes beside the forward's arguments. What is null is not needed.
typedef struct pliant_gradients {
  const void* grad;        // of the output, (images, count, outputs), of the image's type
  int64_t grad_stride[2];  // elements between its images, and between positions of one; channels are contiguous
  // Is added to, in arithmetic type and with channels side by side; or, where there is `image_memory`, written in the
  // image's type, with channels or pixels side by side.
  void* image;
  int64_t image_stride, pixel_stride, channel_stride;
  void* image_memory;              // for (images, height, width, channels) to add up in before; may be null
  void* weight;                    // is added to; laid out as the weight, in arithmetic type
  void* offset;                    // (images, 2 * G * K) rows of `count`, all `map_stride` elements apart
  void* mask;                      // (images, G * K) rows
  int64_t offset_type, mask_type;  // a pliant_type of each
  int64_t map_stride;
  int64_t accumulate;  // whether offset and mask are added to
  void* shares;  // memory for (deform_shares, 3, G * K, images * count) of arithmetic type; null if offset and mask are
} pliant_gradients;

// Into how many shares of channels the gradients of offset and mask are divided on the way; depthwise, there is one.
typedef int64_t pliant_deform_shares(const pliant_tile* tile);

// The whole backward pass of a tile, block by block in cache. `weight` is (channels / run, outputs, K, run).
typedef int pliant_deform_conv_backward(const pliant_tile* tile, int image_type, const void* image, const void* offset,
                                        const void* mask, const void* weight, int64_t outputs,
                                        const pliant_gradients* gradients);

// For products that are made elsewhere: columns (images * count, channels / run, K, run) = x(p + p_k + dp_k) * dm_k, of
// the image's type.
typedef void pliant_deform_sample(const pliant_tile* tile, int image_type, const void* image, const void* offset,
                                  const void* mask, void* columns);

// And their backward: given the columns' gradient, gives the gradients of image, offset and mask, and replaces the
// columns' gradient by the columns themselves.
typedef void pliant_deform_sample_backward(const pliant_tile* tile, int image_type, const void* image,
                                           const void* offset, const void* mask, void* columns,
                                           const pliant_gradients* gradients);

// Depthwise convolution: weight (K, channels) and bias (channels, or null) in arithmetic type.
typedef int pliant_deform_depthwise(const pliant_tile* tile, int image_type, const void* image, const void* offset,
                                    const void* mask, const void* weight, const void* bias, void* output,
                                    const int64_t* output_stride);
typedef int pliant_deform_depthwise_backward(const pliant_tile* tile, int image_type, const void* image,
                                             const void* offset, const void* mask, const void* weight,
                                             const pliant_gradients* gradients);

// --- poolings of boxes: the mean of a grid of bilinear samples in each bin of a box, a bin moved by a shift ----------

// Where the samples of a bin stand, and which count.
enum pliant_pooling_rule {
  // RoIAlign's: in the middles of the grid's cells. One up to a pixel outside the image reads the border, one further
  // out reads 0; all count.
  PLIANT_POOL_ALIGNED = 0,
  // The position-sensitive operator's: at the upper left of the grid's cells. One up to half a pixel outside reads the
  // border; one further out does not count.
  PLIANT_POOL_POSITION_SENSITIVE = 1
};

// Some boxes of one image, and a slice of the output's channels. An image has groups * groups times the output's
// channels. It may lie in any way; where the channels of a group lie side by side, vectors run over them.
typedef struct pliant_pooling {
  int64_t height, width;   // of the image
  int64_t pixel_stride;    // elements between neighbouring pixels of the image
  int64_t channel_stride;  // elements between neighbouring channels of a group
  int64_t groups;          // along each axis: bin b of n reads group b * groups / n
  int64_t group_stride;    // elements between the channels of neighbouring groups, row-major
  int64_t bins[2];         // of a box: (vertical, horizontal)
  int64_t rule;            // a pliant_pooling_rule
  int64_t outputs;         // channels of the output
  int64_t class_channels;  // outputs that share shifts and masks; divides `outputs`
  int64_t channel_begin;   // of the slice, among all outputs
  int64_t channels;        // in this slice
  int64_t boxes;           // in this call
  int64_t threads;         // to share the work among, at most
} pliant_pooling;

// All in arithmetic type, and of all boxes: `index` (boxes) has the numbers of the boxes that are meant here.
//   sides  (R, 2, 3)                      for (vertical, horizontal): start and size in pixels, samples of a bin
//   shift  (R, classes, 2, bins)          (horizontal, vertical), in pixels; may be null
//   mask   (R, classes, bins)             what a bin is multiplied with; may be null
//   output (R, outputs, bins)             of the image's type, as is `grad`
// A sample that is not finite counts as one far outside the image. Both functions return 0, or -1 where there is no
// memory to work in.
typedef int pliant_pool(const pliant_pooling* pooling, int image_type, const void* image, const int64_t* index,
                        const void* sides, const void* shift, const void* mask, void* output);

// Adds to `grad_image` (arithmetic type, pixels `grad_pixel_stride` apart, else as the image; may be null) and
// writes to `products` (units, boxes, classes, bins, 5; may be null), for units of 64 channels of a class, the sums
// over their channels of the gradients of the mask, of the shift (vertical, horizontal), and of the size (vertical,
// horizontal) with starts and shifts held. Entries of bins that have no sample are left as they are.
typedef int pliant_pool_backward(const pliant_pooling* pooling, int image_type, const void* image, const int64_t* index,
                                 const void* sides, const void* shift, const void* mask, const void* grad,
                                 void* grad_image, int64_t grad_pixel_stride, void* products);

// The functions above, compiled for one instruction set.
typedef struct pliant_kernels {
  const char* instruction_set;  // "avx512", "avx2", "baseline"
  pliant_transpose* transpose;
  pliant_pack_weight* pack_weight;
  pliant_deform_conv* deform_conv;
  pliant_deform_conv_few* deform_conv_few;
  pliant_deform_conv_panel* deform_conv_panel;
  pliant_deform_shares* deform_shares;
  pliant_deform_conv_backward* deform_conv_backward;
  pliant_deform_sample* deform_sample;
  pliant_deform_sample_backward* deform_sample_backward;
  pliant_deform_depthwise* deform_depthwise;
  pliant_deform_depthwise_backward* deform_depthwise_backward;
  pliant_pool* pool;
  pliant_pool_backward* pool_backward;
} pliant_kernels;

// The kernels for the instruction set of that name, or for the best that this processor can run where `name` is null;
// null where the library has none of that name or the processor cannot run it.
PLIANT_API const pliant_kernels* pliant_kernels_for(const char* name);

#ifdef __cplusplus
}
#endif
