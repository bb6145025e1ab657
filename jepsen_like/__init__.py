"""Attacks whole nodes with every fault we can make and checks that nothing acknowledged is lost."""
