"""From the program of ``torch.export`` to a graph of kernel calls on strided views."""
