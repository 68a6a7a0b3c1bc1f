# SPDX-License-Identifier: Apache-2.0
"""Images with boxes, and masks of objects: COCO json and Pascal VOC."""
