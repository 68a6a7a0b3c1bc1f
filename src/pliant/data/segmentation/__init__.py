# SPDX-License-Identifier: Apache-2.0
"""Images with a label for each pixel: Pascal VOC, Cityscapes and paired folders."""
