"""Sections 6 to 9: scans, results, what other clients got wrong, defaults."""

from __future__ import annotations

from .mutation import Mutation
from .rules_servers import REPORTS

SCANS = tuple(f"tests/integration/test_{name}.py" for name in ("scans", "scan_contexts", "scan_progress"))
CONTINUES = "tests/faults/test_scan_continues.py"
PLAN = "tests/unit/test_scan_plan.py"
MULTI = "tests/integration/test_multi.py"
SINGLE = "tests/integration/test_single.py"
FILTER = "tests/faults/test_scan_filter.py"

ROWS = (
    # ------------------------------------------------------------------------------------------------ 6 scans
    Mutation(
        "6-context-once",
        "a context id is used once",
        "scanner/parts.py",
        "context, self.context = self.context, None",
        "context = self.context",
        ("tests/faults/test_scan_ids.py",),
    ),
    Mutation(
        "6-context-own-connection",
        "a context is used on the connection that issued it, never on another",
        "scanner/batch.py",
        "            if part.is_at(route):\n",
        "            part.connection = route.peer.connect(self.deadline)\n"
        "            if not isinstance(part.connection, PegasusError):\n",
        (*SCANS, "-k", "own_connection"),
    ),
    Mutation(
        "6-empty-batch",
        "an empty batch with a valid context is normal",
        "scanner/batch.py",
        "final = found.context_id in (COMPLETED, NONE)\n",
        "final = found.context_id in (COMPLETED, NONE) or not found.rows\n",
        (*SCANS, "-k", "expired"),
    ),
    Mutation(
        "6-context-lost",
        "after a lost context a scan restarts after the last key",
        "scanner/batch.py",
        "                if outcome is not None:\n                    return outcome",
        '                return outcome if outcome is not None else ProtocolError("the context is lost")',
        (*SCANS, CONTINUES),
    ),
    Mutation(
        "6-exclusively-after",
        "a scan continues after the last key, without it",
        "scanner/query.py",
        "self._replace(lower=after, lower_inclusive=False)",
        "self._replace(lower=after, lower_inclusive=True)",
        (PLAN, CONTINUES, "-k", "after_a_key or any_event"),
    ),
    Mutation(
        "6-both-halves",
        "after a split parent and child continue after the last key",
        "scanner/parts.py",
        "            siblings.append(sibling)\n",
        "            siblings.clear()\n",
        (PLAN, CONTINUES, "-k", "halves or split"),
    ),
    Mutation(
        "6-child-after",
        "the child continues after the last key of the parent",
        "scanner/parts.py",
        "sibling = Part(child, modulus, self.after)",
        "sibling = Part(child, modulus, None)",
        (PLAN, CONTINUES, "-k", "halves or split"),
    ),
    Mutation(
        "6-not-ready",
        "children that are not ready are scanned at their parents",
        "scanner/parts.py",
        "waiting = {route.index for route in table.routes if route.ballot < 0 and",
        "waiting = {route.index for route in table.routes if route.ballot < -9 and",
        (PLAN, CONTINUES, "-k", "not_ready or during_a_split"),
    ),
    Mutation(
        "6-count-again",
        "an interrupted count restarts from its last confirmed key without the partial sum",
        "scanner/batch.py",
        "part.asked, part.partial = self.work.rows_a_batch, 0",
        "part.asked = self.work.rows_a_batch",
        (*SCANS, CONTINUES, "-k", "count"),
    ),
    Mutation(
        "6-split-in-one-step",
        "an interruption leaves a part as it was, or narrows it and adds what is split off",
        "scanner/parts.py",
        "            waiting.extendleft(chain(filter(None, narrowed), siblings))",
        "            list(narrowed)\n            waiting.extendleft(siblings)",
        (PLAN, "-k", "interrupted"),
    ),
    Mutation(
        "6-count-by-rows",
        "after the second interruption a count reads rows",
        "scanner/batch.py",
        "as_rows = part.breaks >= MAX_LOST_COUNTS or not",
        "as_rows = not",
        (*SCANS, CONTINUES, "-k", "count"),
    ),
    Mutation(
        "6-own-rows",
        "rows of other partitions are dropped, whether the server filters or not",
        "scanner/batch.py",
        "rows = own_rows(rows, part.index, part.modulus)",
        "pass",
        (FILTER,),
    ),
    Mutation(
        "6-after-foreign-rows",
        "a scan continues after the last received row, also a foreign one",
        "scanner/batch.py",
        "            after = query.key_of(rows[-1])\n            if not self.work.is_pure(part):\n"
        "                rows = own_rows(rows, part.index, part.modulus)\n",
        "            if not self.work.is_pure(part):\n                rows = own_rows(rows, part.index, part.modulus)\n"
        "            after = query.key_of(rows[-1]) if rows else after\n",
        (FILTER, "-k", "only_foreign"),
    ),
    Mutation(
        "6-count-by-keys",
        "keys are counted if a server may count the rows of other partitions",
        "scanner/batch.py",
        "part.breaks >= MAX_LOST_COUNTS or not self.work.is_pure(part)",
        "part.breaks >= MAX_LOST_COUNTS",
        (FILTER, "-k", "count or keys_are_read"),
    ),
    Mutation(
        "6-never-split",
        "a table counts as never split only if its count divides its initial count",
        "scanner/ownership.py",
        "initial_count > 0 and initial_count % modulus == 0",
        "initial_count > 0 and modulus % initial_count == 0",
        (FILTER,),
    ),
    Mutation(
        "6-copied-tables",
        "a table copied from another cluster may contain rows of other partitions",
        "cluster/refresher.py",
        "copied = any(name.startswith(_COPIED) for name in info.envs)",
        "copied = False",
        (FILTER, "-k", "proven or unsplit or holds_no_foreign"),
    ),
    Mutation(
        "6-empty-hash-key",
        "the filter of foreign rows hashes the sort key if the hash key is empty",
        "scanner/ownership.py",
        "(row[0] or crc64(row[1]) % modulus == index)",
        "(row[0] or crc64(row[0]) % modulus == index)",
        (FILTER,),
    ),
    Mutation(
        "6-negative-ids",
        "contexts with negative ids are cleared too",
        "scanner/parts.py",
        "    if context not in (COMPLETED, NONE):",
        "    if context > 0:",
        (*SCANS, "-k", "no_scan_context_is_left"),
    ),
    Mutation(
        "6-cleared-after-a-split",
        "clear_scanner has the hash that a parent accepts after its split",
        "scanner/parts.py",
        "route, route.index, CLEAR_SCANNER",
        "route, route.index + 4, CLEAR_SCANNER",
        (*SCANS, "-k", "before_a_split"),
    ),
    Mutation(
        "6-late-batches-are-cleared",
        "the context of a late batch is cleared",
        "scanner/batch.py",
        "elif isinstance(outcome, PegasusError) and outcome.sent:",
        "elif False:",
        (*SCANS, "-k", "late_batch"),
    ),
    Mutation(
        "6-full-scan",
        "table scans send full_scan",
        "scanner/query.py",
        "full_scan=True if whole_table else None,",
        "full_scan=None,",
        (PLAN, *SCANS, "-k", "requests or every_row_once"),
    ),
    Mutation(
        "6-validate-hash",
        "table scans ask the server to filter rows of other partitions",
        "scanner/query.py",
        "validate_partition_hash=whole_table,",
        "validate_partition_hash=False,",
        (PLAN, CONTINUES, "-k", "requests or split"),
    ),
    Mutation(
        "6-options-untouched",
        "the options of the application are not changed",
        "pegasus.py",
        "    return options.batch_size if options.batch_size > 0 else ScanOptions().batch_size",
        "    options.batch_size = 1000\n    return options.batch_size",
        ("tests/integration/test_documented_api.py", "-k", "scanner"),
    ),
    Mutation(
        "6-prefix-narrows",
        "prefix filters narrow the range on the client's side",
        "scanner/query.py",
        "                if first > lower:\n",
        "                if first < lower:\n",
        (PLAN, *SCANS, "-k", "prefix or bounds"),
    ),
    Mutation(
        "6-hash-key-filter-refused",
        "a hash-key filter in the scan of one hash key is refused",
        "scanner/query.py",
        "if self.hash_key is not None and self.hash_key_filter != NO_FILTER:",
        "if self.hash_key is not None and self.hash_key_filter is None:",
        (PLAN, *SCANS),
    ),
    Mutation(
        "6-cleared-when-left",
        "leaving a scan early frees the server's context",
        "scanner/work.py",
        "            part.clear()\n\n    def release(",
        "            pass\n\n    def release(",
        (*SCANS, "-k", "context"),
    ),
    Mutation(
        "6-empty-range",
        "an empty range is not sent",
        "scanner/query.py",
        "        return self.lower > self.upper\n",
        "        return False\n",
        (*SCANS, PLAN, "-k", "empty_ranges or bounds"),
    ),
    # ---------------------------------------------------------------------------------------------- 7 results
    Mutation(
        "7-start-inclusive",
        "multi_get sends start_inclusive, or the row with the empty sort key is lost",
        "operations/multi.py",
        '"start_inclusive": start_inclusive,\n            "stop_inclusive": stop_inclusive,\n'
        '            "prefix": prefix,\n            "filter": filter,\n            "reverse": reverse,\n        }\n'
        "        request = multi_get_request(hash_key, sort_keys, bounds)",
        '"start_inclusive": False,\n            "stop_inclusive": stop_inclusive,\n'
        '            "prefix": prefix,\n            "filter": filter,\n            "reverse": reverse,\n        }\n'
        "        request = multi_get_request(hash_key, sort_keys, bounds)",
        (MULTI, "-k", "ranges or set_get_del or binary"),
    ),
    Mutation(
        "7-text-is-utf8",
        "str is encoded as UTF-8",
        "keys.py",
        'return value.encode("utf-8")',
        'return value.encode("latin-1", "replace")',
        (SINGLE, "tests/unit/test_keys.py", "-k", "utf8 or can_be_a_key"),
    ),
    Mutation(
        "7-count-unknown",
        "a count of -1 raises an error",
        "operations/multi.py",
        "if response.count < 0:",
        "if response.count < -1:",
        (MULTI, "-k", "time_limit"),
    ),
    Mutation(
        "7-limits",
        "limits of 0 and less mean no limit of the client",
        "operations/multi.py",
        'request.max_kv_count, request.max_kv_size = _limit(max_count, "max_count"), _limit(max_bytes, "max_bytes")',
        "request.max_kv_count, request.max_kv_size = max_count or 1, max_bytes or 1",
        (MULTI, "-k", "limits or ranges"),
    ),
    # --------------------------------------------------------------------------- 8 what others got wrong
    Mutation(
        "8-unsigned-hash",
        "the hash is unsigned",
        "keys.py",
        "return crc64(raw or tail)",
        "return crc64(raw or tail) - 2**63",
        ("tests/unit/test_keys.py",),
    ),
    Mutation(
        "8-seconds",
        "the documented API takes milliseconds",
        "pegasus.py",
        "/ 1000",
        "/ 1",
        ("tests/integration/test_documented_api.py", "-k", "milliseconds or without_a_meta_server"),
    ),
    Mutation(
        "8-import-is-pure",
        "importing configures no logging",
        "__init__.py",
        "_logging.getLogger(__name__).addHandler(_logging.NullHandler())",
        "_logging.basicConfig()",
        ("tests/unit/test_import_purity.py",),
    ),
    Mutation(
        "8-fork-without-hooks",
        "a call notices a fork without Python hooks",
        "cluster/dispatcher.py",
        "        if not _page[0]:\n            fork.notice()\n        caller",
        "        caller",
        ("tests/fork/test_forks_without_hooks.py", "-k", "both_processes"),
    ),
    Mutation(
        "8-timeouts-do-not-leak",
        "a call that timed out leaves nothing behind",
        "transport/handover.py",
        "                            del pending[seqid]\n                            taker.switch(outcome)",
        "                            taker.switch(outcome)",
        ("tests/transport/test_time.py", f"{REPORTS}[no reply]"),
    ),
    # --------------------------------------------------------------------------------------------- 9 defaults
    Mutation(
        "9-defaults",
        "the defaults are those of docs/",
        "options.py",
        "meta_stagger: float = 0.25",
        "meta_stagger: float = 0.5",
        ("tests/unit/test_docs.py", "tests/unit/test_options_retry.py", "-k", "default"),
    ),
)
