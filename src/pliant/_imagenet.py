# SPDX-License-Identifier: Apache-2.0
"""Mean and standard deviation of ImageNet's pixels, R, G, B in 0..1: what published weights were trained with."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
