# SPDX-License-Identifier: Apache-2.0
"""DeepLab semantic segmentation on a deformable trunk."""
