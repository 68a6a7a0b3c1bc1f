# SPDX-License-Identifier: Apache-2.0
"""The one number that data, losses, metrics and pictures of semantic segmentation have to agree on."""

from __future__ import annotations

# Pixels of this label count in no loss and in no metric: VOC's borders, Cityscapes' unlabelled parts, padding.
IGNORE = 255
