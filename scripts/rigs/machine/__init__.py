"""The director as an emulated machine: PCI NICs behind an IOMMU, bound by lvs-nic, RSS over several queues; every mode
with real programs at both ends, a daemon that dies, and NICs that come back to the kernel as they were.
"""
