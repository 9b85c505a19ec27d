"""STSTNet: the shallow three-stream network of motion (SPEC section 6; Liong et al., FG 2019)."""

import torch
from torch import nn

FILTERS = (3, 5, 8)     # of the three branches
SIDE = 28               # pixels of the input


class STSTNet(nn.Module):
    """Three shallow branches side by side, one fully connected layer.

    forward: motion pictures (B, 3, 28, 28), channels strain, v, u from 0 to 255, as the published weights
    expect them, which load by name (conv1 conv2 conv3, bn1 bn2 bn3, fc) → logits (B, classes), float32.
    """

    pretrained = False

    def __init__(self, classes):
        super().__init__()
        for number, filters in enumerate(FILTERS, start=1):
            setattr(self, f"conv{number}", nn.Conv2d(3, filters, 3, padding=2))
            setattr(self, f"bn{number}", nn.BatchNorm2d(filters))
        self.pool = nn.MaxPool2d(3, stride=3, padding=1)
        self.dropout = nn.Dropout(0.5)
        self.average = nn.AvgPool2d(2)
        self.fc = nn.Linear(5 * 5 * sum(FILTERS), classes)

    def forward(self, x):
        branches = [(self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)]
        found = [self.dropout(self.pool(norm(conv(x).relu()))) for conv, norm in branches]
        features = self.average(torch.cat(found, 1)).flatten(1)      # → (B, 16, 5, 5) → (B, 400)
        return self.fc(features).float()
