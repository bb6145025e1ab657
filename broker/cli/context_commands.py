"""``dledger context``: groups by name, so that no command needs their addresses."""

from __future__ import annotations

from typing import Any

import click

from broker.cli.contexts import Context, Contexts
from broker.cli.output import Table, json_option, print_json, tell
from broker.cli.servers import choose_group, parse_servers


def _complete_name(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in Contexts.load().items if name.startswith(incomplete)]


@click.group()
def context() -> None:
    """Keep groups by name.

    Example: dledger context add prod broker-1:9876,broker-2:9876 --use
    """


@context.command()
@click.argument("name")
@click.argument("servers", metavar="HOST:PORT,...")
@click.option("--description", default="", help="What the group is, in your words.")
@click.option("--use", "is_chosen", is_flag=True, help="Use it from now on.")
@json_option
def add(name: str, servers: str, *, description: str, is_chosen: bool, as_json: bool) -> None:
    """Call the group at HOST:PORT,... NAME, or change what is called so.

    Example: dledger context add prod broker-1:9876,broker-2:9876 --use
    """
    contexts = Contexts.load()
    addresses = tuple(parse_servers(servers))
    contexts.add(Context(name=name, servers=addresses, description=description))
    if is_chosen:
        contexts.current = name
    contexts.save()
    text = f"context {name}: {','.join(addresses)}" + (", in use" if is_chosen else "")
    tell(text, _describe(contexts, contexts.get(name)), as_json=as_json)


@context.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the contexts; a star marks the one in use.

    Example: dledger context list
    """
    contexts = Contexts.load()
    if as_json:
        print_json([_describe(contexts, item) for item in contexts.items.values()])
        return
    if not contexts.items:
        print("no context yet; `dledger context add NAME HOST:PORT,...` makes one")
        return
    table = Table("", "name", "servers", "description")
    for item in contexts.items.values():
        mark = "*" if item.name == contexts.current else " "
        table.add_row(mark, item.name, ",".join(item.servers), item.description)
    table.print()


@context.command()
@click.argument("name", required=False, shell_complete=_complete_name)
@click.option("--none", "is_none", is_flag=True, help="Use none from now on.")
@json_option
def use(name: str | None, *, is_none: bool, as_json: bool) -> None:
    """Speak to the group NAME from now on, where nothing else is said.

    Example: dledger context use prod
    """
    if (name is None) != is_none:
        raise click.UsageError("give NAME, or --none")
    contexts = Contexts.load()
    contexts.current = None if name is None else contexts.get(name).name
    contexts.save()
    text = "no context is in use" if name is None else f"context {name} is in use"
    tell(text, {"in_use": name}, as_json=as_json)


@context.command()
@click.argument("name", required=False, shell_complete=_complete_name)
@json_option
def show(name: str | None, *, as_json: bool) -> None:
    """Show the context NAME, or which group commands would speak to here, and why.

    Example: dledger context show
    """
    if name is not None:
        contexts = Contexts.load()
        found = _describe(contexts, contexts.get(name))
        if as_json:
            print_json(found)
            return
        for key, value in found.items():
            print(f"{key:12} {','.join(value) if isinstance(value, list) else value}")
        return
    choice = choose_group()
    if as_json:
        print_json({"servers": choice.servers, "source": choice.source})
    else:
        print(f"{','.join(choice.servers)}  (from {choice.source})")


@context.command()
@click.argument("name", shell_complete=_complete_name)
@json_option
def delete(name: str, *, as_json: bool) -> None:
    """Forget the context NAME; the group itself is not touched.

    Example: dledger context delete prod
    """
    contexts = Contexts.load()
    contexts.delete(name)
    contexts.save()
    tell(f"context {name} is forgotten", {"deleted": name}, as_json=as_json)


def _describe(contexts: Contexts, item: Context) -> dict[str, Any]:
    return {
        "name": item.name,
        "servers": list(item.servers),
        "description": item.description,
        "in_use": item.name == contexts.current,
    }
