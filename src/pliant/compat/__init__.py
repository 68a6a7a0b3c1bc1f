# SPDX-License-Identifier: Apache-2.0
"""Programs written for other libraries' deformable operators, run on pliant's; and those libraries' channel orders.

`pliant.compat.torchvision`, `pliant.compat.mmcv` and `pliant.compat.dcnv2` have those libraries' names and argument
orders. The first needs torchvision; none needs mmcv or DCNv2.
"""

from pliant.compat.orders import Order, from_pliant_order, mask_order, offset_order, to_pliant_order

__all__ = [
    "Order",
    "from_pliant_order",
    "mask_order",
    "offset_order",
    "to_pliant_order",
]
