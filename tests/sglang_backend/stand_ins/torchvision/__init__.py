"""In place of torchvision."""

from absent_package import stand_in

stand_in("torchvision", __version__="0.28.0")
