"""The taxonomy as a product: snapshots, their differences, and what is generated of them.

Knows declarations only; nothing here is imported by ``import tenantry``.
"""
