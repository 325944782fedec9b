"""A network of one's own, in 20 lines; it knows nothing of any toolbox."""
from torch import nn


def block(width_in, width, stride):
    return nn.Sequential(
        nn.Conv2d(width_in, width, 3, stride, 1, bias=False),
        nn.BatchNorm2d(width), nn.ReLU())


class OwnNetwork(nn.Module):

    def __init__(self, classes=10):
        super().__init__()
        self.stem = block(3, 8, 4)
        self.middle = block(8, 16, 2)
        self.last = nn.Sequential(block(16, 32, 2), block(32, 32, 1))
        self.head = nn.Linear(32, classes)

    def forward(self, images):
        maps = self.last(self.middle(self.stem(images)))
        if maps.mean() > 100:  # which cannot be traced
            maps = maps / 100
        return self.head(maps.mean((2, 3)))
