"""Keys of photographs, as a mask bank and an index store them."""
from ..errors import UserError


def encode(key: str) -> bytes:
    """The bytes of a key, by which keys are sorted."""
    return key.encode('utf-8', 'surrogateescape')


def decode(key: bytes) -> str:
    """A key from its bytes."""
    return key.decode('utf-8', 'surrogateescape')


def check_key(key: str) -> None:
    """Refuse a key that cannot be stored."""
    if not key or '\0' in key:
        raise UserError('A key must be a path relative to data_root, '
                        f'without NUL; found {key!r}')
