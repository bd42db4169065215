"""In place of Triton; the two helpers are called while modules are imported."""

from absent_package import stand_in

stand_in(
    "triton",
    __version__="3.7.1",
    cdiv=lambda dividend, divisor: -(-dividend // divisor),
    next_power_of_2=lambda number: 1 << (number - 1).bit_length(),
)
