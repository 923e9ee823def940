"""Fenced writes to the database: those of a former leader are refused.

NOT guaranteed here:

- Whatever does not go through this module is not fenced: ``update()``, ``bulk_update()``, SQL, another service. Rows
  that are inserted or deleted are not fenced either. A deleted row takes its token along.
- A fence knows only the tokens that were written. Until a newer leader writes to a row, writes of the former leader
  to that row succeed. ``fenced_update()`` without values raises the token of rows in advance.
- Nothing outside the database is fenced: a mail that was sent before the refusal has been sent.
- A database that loses committed transactions, as in a failover to a replica that is behind, loses tokens with them.
- ``fenced_transaction()`` needs tables with transactions, which MyISAM has not.
- A fence orders leaders. It does not order the writes of one leader, and does not notice that a row has changed since
  it was read.
- An ``update()`` that a project overrides is called. It must send one UPDATE, for the rows of its queryset.

One UPDATE compares the row's token with that of the writer, and writes both values and token. The database locks the
row, and compares again what it finds behind a lock that it has waited for. So no pause of the writer is in between.

This module defines an abstract model. Import it where models can be imported: after the apps have been loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from asgiref.sync import sync_to_async
from django.core.exceptions import FieldDoesNotExist, FieldError
from django.db import connections, models, router, transaction

from .exceptions import StaleToken

TOKEN_FIELD = "fencing_token"
HIGHEST_TOKEN = 2**53 - 1
"""Tokens are whole numbers below 2**53. A higher one is no token, and would refuse every later leader for ever."""

Row = TypeVar("Row", bound=models.Model)


def fenced_update(
    queryset: models.QuerySet[Any, Any] | models.Manager[Any],
    *,
    token: int,
    token_field: str = TOKEN_FIELD,
    raise_if_stale: bool = False,
    **values: Any,
) -> int:
    """Update the rows of ``queryset`` that no later leader has written. Return how many have been written.

    The rows whose ``token_field`` is at most ``token`` get ``values``, and ``token``. Those with a higher one are left
    as they are. So 0 says that a later leader has written the rows, or that ``queryset`` has none. ``values`` are as of
    ``QuerySet.update()``, ``F()`` included; without any, the tokens alone are raised. The database is the one that
    ``queryset`` or the router chooses for writing.

    With ``raise_if_stale``, raise ``StaleToken`` if a row has a higher token, and write none of the rows.

    One statement, and with ``raise_if_stale`` a second one and a transaction around both. For a queryset with a join
    MySQL takes another one, which reads the keys beforehand. Any thread. As ``update()``, it sends no signals.

    Raise ``TypeError`` for a token that is no ``int`` (it is None if this process does not lead), and for a queryset
    that is sliced, combined, or distinct by fields. Raise ``ValueError`` for a token below 1 or above 2**53 - 1, and
    for ``values`` that name the token's field. Raise ``FieldError`` if that field does not exist, is not a
    ``BigIntegerField``, may be NULL, or is in another table than the values. Raise what ``update()`` raises.
    """
    _check_token(token)
    rows = _one_table(_as_queryset(queryset), token_field, values)
    with transaction.atomic(using=rows.db) if raise_if_stale else nullcontext():
        written = rows.filter(**{f"{token_field}__lte": token}).update(**{token_field: token}, **values)
        if raise_if_stale:
            _raise_if_stale(rows, token, token_field)
    return written


async def afenced_update(
    queryset: models.QuerySet[Any, Any] | models.Manager[Any],
    *,
    token: int,
    token_field: str = TOKEN_FIELD,
    raise_if_stale: bool = False,
    **values: Any,
) -> int:
    """Do the same as ``fenced_update()``, awaited."""
    return await sync_to_async(fenced_update)(
        queryset, token=token, token_field=token_field, raise_if_stale=raise_if_stale, **values
    )


@contextmanager
def fenced_transaction(
    queryset: models.QuerySet[Any, Any] | models.Manager[Any], *, token: int, token_field: str = TOKEN_FIELD
) -> Iterator[None]:
    """Run the block in a transaction that no later leader has overtaken, and that none overtakes.

    The first statement raises the token of the rows of ``queryset``, mostly one row that stands for all that the block
    writes. The locks of these rows keep other leaders waiting that fence with them, until the transaction ends.
    All writers must fence with the same rows. In an outer ``atomic()``, let nothing be read before the fence: it may be
    outdated, and the fence may fail with ``OperationalError``. A leader that is paused in the block keeps the others
    waiting, for as long as the database lets it.

    Raise ``StaleToken`` before the block if one of the rows has a higher token, ``DoesNotExist`` of the model if there
    is no row, and what ``fenced_update()`` and ``atomic()`` raise. ``OperationalError`` says that another leader's
    transaction was there at the same time: at REPEATABLE READ and SERIALIZABLE of PostgreSQL, and on SQLite when it has
    not ended within the timeout.
    """
    rows = _as_queryset(queryset)
    with transaction.atomic(using=rows.db):
        if not fenced_update(rows, token=token, token_field=token_field, raise_if_stale=True):
            model = rows.model
            raise model.DoesNotExist(
                f"no row of {model._meta.label} matches, so there is nothing to fence with; create it beforehand, "
                "for example in a migration"
            )
        yield


class FencedQuerySet(models.QuerySet[Row]):
    """A queryset with fenced updates, for a model with a ``fencing_token``. Base of a queryset of your own."""

    def fenced_update(self, *, token: int, raise_if_stale: bool = False, **values: Any) -> int:
        """Update the rows that no later leader has written. See ``fenced_update`` of the module."""
        return fenced_update(self, token=token, raise_if_stale=raise_if_stale, **values)

    fenced_update.alters_data = True  # type: ignore[attr-defined]

    async def afenced_update(self, *, token: int, raise_if_stale: bool = False, **values: Any) -> int:
        """Do the same, awaited."""
        return await afenced_update(self, token=token, raise_if_stale=raise_if_stale, **values)

    afenced_update.alters_data = True  # type: ignore[attr-defined]


class FencedManager(models.Manager[Row]):
    """A manager with fenced updates. Base of a manager of your own."""

    def get_queryset(self) -> FencedQuerySet[Row]:
        """Return a queryset with fenced updates. Local."""
        return FencedQuerySet(self.model, using=self._db, hints=self._hints)  # type: ignore[attr-defined]

    def fenced_update(self, *, token: int, raise_if_stale: bool = False, **values: Any) -> int:
        """Update all rows that no later leader has written. See ``fenced_update`` of the module."""
        return fenced_update(self, token=token, raise_if_stale=raise_if_stale, **values)

    async def afenced_update(self, *, token: int, raise_if_stale: bool = False, **values: Any) -> int:
        """Do the same, awaited."""
        return await afenced_update(self, token=token, raise_if_stale=raise_if_stale, **values)

    if TYPE_CHECKING:  # the stubs of Django return a QuerySet, which has no fenced updates

        def all(self) -> FencedQuerySet[Row]: ...  # noqa: D102
        def using(self, alias: str | None) -> FencedQuerySet[Row]: ...  # noqa: D102
        def filter(self, *args: Any, **kwargs: Any) -> FencedQuerySet[Row]: ...  # noqa: D102
        def exclude(self, *args: Any, **kwargs: Any) -> FencedQuerySet[Row]: ...  # noqa: D102


class FencedModel(models.Model):
    """An abstract model whose rows carry the token of the leader that has written them last.

    An ordinary ``save()`` leaves the token in the row as it is, so an instance that was read earlier does not lower
    it. Only ``save(update_fields=["fencing_token"])`` sets the token by hand.

    It brings no manager along, so those of the project stay as they are. ``fenced_update(Report.objects, ...)`` takes
    any. For ``Report.objects.fenced_update(...)``, add ``objects = FencedManager["Report"]()`` to the model, or inherit
    from ``FencedManager`` or ``FencedQuerySet``.
    """

    fencing_token: models.PositiveBigIntegerField[int, int] = models.PositiveBigIntegerField(default=0, editable=False)
    _fence: int | None = None
    """The token of the ``fenced_save()`` that goes on."""

    if not TYPE_CHECKING:  # pyright would ask that the Meta of each model inherits from this one

        class Meta:
            abstract = True

    def fenced_save(self, *, token: int, using: str | None = None, update_fields: Iterable[str] | None = None) -> None:
        """Save the instance, unless a later leader has written its row.

        Call ``save()``, with its signals, and have its UPDATE compare the tokens. ``using`` and ``update_fields`` are
        as of ``save()``; the token is always written.

        One statement, in a transaction also a savepoint; a refusal takes one more. Any thread. Raise ``StaleToken`` if
        a later leader has written the row: the instance keeps the values that were not saved. Raise ``ValueError`` for
        an instance without a row: insert it first, for example with ``get_or_create()``. Raise ``FieldError`` for a
        model that inherits from another table, and ``DatabaseError`` if the row is gone. Raise ``TypeError`` and
        ``ValueError`` for tokens, as ``fenced_update()`` does, and what ``save()`` raises.
        """
        _check_token(token)
        _check_fields(type(self), TOKEN_FIELD, [field.name for field in self._meta.concrete_fields])
        if self._state.adding or self.pk is None:
            raise ValueError(
                f"fenced_save: this {self._meta.label} has no row yet, whose token could be compared; insert it first, "
                "for example with get_or_create()"
            )
        using = using or router.db_for_write(type(self), instance=self)
        if update_fields is not None:
            update_fields = {*update_fields, TOKEN_FIELD}
        before, self.fencing_token, self._fence = self.fencing_token, token, token
        try:
            # A savepoint, because an error in save() breaks the transaction around it.
            with transaction.atomic(using=using) if connections[using].in_atomic_block else nullcontext():
                self.save(force_update=True, using=using, update_fields=update_fields)
        except BaseException:
            self.fencing_token = before
            raise
        finally:
            self._fence = None

    fenced_save.alters_data = True  # type: ignore[attr-defined]

    async def afenced_save(
        self, *, token: int, using: str | None = None, update_fields: Iterable[str] | None = None
    ) -> None:
        """Do the same as ``fenced_save()``, awaited."""
        await sync_to_async(self.fenced_save)(token=token, using=using, update_fields=update_fields)

    afenced_save.alters_data = True  # type: ignore[attr-defined]

    def _do_update(  # type: ignore[override]  # its arguments differ between releases of Django
        self, base_qs: models.QuerySet[Any, Any], using: str, pk_val: Any, values: Any, update_fields: Any, *more: Any
    ) -> Any:
        """Send the UPDATE of ``save()``. Every ``save()`` of an instance that has a row comes here."""
        token = self._fence
        if token is None:
            if update_fields is None or set(update_fields) != {TOKEN_FIELD}:
                values = [value for value in values if value[0].name != TOKEN_FIELD]
            return super()._do_update(base_qs, using, pk_val, values, update_fields, *more)
        fenced = base_qs.filter(**{f"{TOKEN_FIELD}__lte": token})
        updated = super()._do_update(fenced, using, pk_val, values, update_fields, *more)
        if not updated:
            with transaction.atomic(using=using):
                _raise_if_stale(base_qs.filter(pk=pk_val), token, TOKEN_FIELD)
        return updated


def _raise_if_stale(rows: models.QuerySet[Any, Any], token: int, token_field: str) -> None:
    """Raise ``StaleToken`` if one of ``rows`` has a higher token. One statement, in the transaction of the caller.

    It locks what it reads, because REPEATABLE READ of MySQL shows rows as they were at an earlier statement, unless
    they are locked.
    """
    later = rows.filter(**{f"{token_field}__gt": token}).order_by().select_for_update()
    if highest := max(later.values_list(token_field, flat=True), default=0):
        raise StaleToken(
            f"{rows.model._meta.label}: not written with the fencing token {token}, because a later leader has written "
            f"with {highest}; end the work, because this process is not the leader any more"
        )


def _check_token(token: Any) -> None:
    if isinstance(token, bool) or not isinstance(token, int):
        why = "this process does not lead, so it must not write" if token is None else "that is no int"
        raise TypeError(f"the fencing token is {token!r}: {why}; take fencing_token of the election before the work")
    if not 0 < token <= HIGHEST_TOKEN:
        raise ValueError(f"the fencing token is {token}; give one from 1 to 2**53 - 1, such as that of an election")


def _as_queryset(queryset: Any) -> models.QuerySet[Any, Any]:
    """Return the queryset, for the database to which it writes."""
    rows = queryset.all() if isinstance(queryset, models.Manager) else queryset
    if not isinstance(rows, models.QuerySet):
        raise TypeError(f"a fenced update is for a queryset, not for {queryset!r}; give Model.objects.filter(...)")
    query = rows.query
    for applies, what in (
        (query.is_sliced, "sliced"),
        (query.combinator, f"combined by {query.combinator}()"),
        (query.distinct_fields, "distinct by fields"),
    ):
        if applies:
            raise TypeError(f"a queryset that is {what} cannot be updated; give filter(pk__in=...) with its keys")
    rows = rows.all()
    rows._for_write = True  # type: ignore[attr-defined]  # as update() does, so that the router chooses for writing
    return rows.using(rows.db)


def _check_fields(model: type[models.Model], token_field: str, names: Iterable[str]) -> None:
    """Raise ``FieldError`` for an unfit token field, and for a field of ``names`` that is in another table."""
    meta, label, advice = model._meta, f"{model._meta.label}.{token_field}", "make it a BigIntegerField(default=0)"
    try:
        field = meta.get_field(token_field)
    except FieldDoesNotExist:
        raise FieldError(f"{label} does not exist; add a BigIntegerField(default=0), or inherit FencedModel") from None
    if not isinstance(field, models.BigIntegerField):
        raise FieldError(f"{label} is a {type(field).__name__}, and tokens need 53 bits; {advice}")
    if field.null:
        raise FieldError(f"{label} may be NULL, which compares with no token; {advice}")
    for name in (token_field, *names):
        table = meta.get_field(name).model._meta
        if table.concrete_model is not meta.concrete_model:
            raise FieldError(
                f"{meta.label} keeps {name} in the table of {table.label}, and one statement writes one table; "
                f"update the rows of {table.label}"
            )


def _one_table(rows: models.QuerySet[Any, Any], token_field: str, values: Collection[str]) -> models.QuerySet[Any, Any]:
    """Return a queryset of the same rows with no table but the model's own in its conditions.

    Where there are others, Django moves all conditions into a subquery for the keys, or into a query beforehand. The
    database would compare the tokens there, and not again when it has waited for the lock of a row.
    """
    if token_field in values:
        raise ValueError(f"fenced_update: {token_field} is what token= sets; leave it out of the values")
    _check_fields(rows.model, token_field, values)
    query = rows.query
    if query.count_active_tables() < 2 and query.group_by is None and not query.distinct:
        return rows
    keys: Any = rows.order_by().values("pk")
    if not connections[rows.db].features.update_can_self_select:
        keys = list(keys.values_list("pk", flat=True))
    return type(rows)(rows.model, using=rows.db).filter(pk__in=keys)
