"""What opens an archive's doors: signatures of addresses, and credentials from the environment.

The one idea: secrets stay in the environment and in the address of the moment. They enter no record,
and an address is signed just before it is read, because a signature lasts less than an hour.
"""

import os

from tasks.errors import ParamsError
from tasks.stac.providers import Provider
from tasks.stac.reading import Access


def access_of(provider: Provider, retries: int) -> Access:
    """Return how a provider's rasters are reached.

    Raises:
        ParamsError: The provider wants credentials, and the environment has none.
    """
    if provider.credentials and not any(os.environ.get(name) for name in provider.credentials):
        raise ParamsError(
            f"credentials for {provider.name}: {' or '.join(provider.credentials)}",
            found="neither" if len(provider.credentials) > 1 else "none",
            where="environment",
            mend="Set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
            "AWS_S3_ENDPOINT=eodata.dataspace.copernicus.eu and AWS_VIRTUAL_HOSTING=FALSE; "
            "keys are made in the account of the provider.",
        )
    return Access(sign=sign if provider.signs else str, retries=retries)


def sign(href: str) -> str:
    """Sign an address of Planetary Computer; others are returned as they are."""
    import planetary_computer

    return str(planetary_computer.sign(href))
