"""``candidate_process`` on greenlets."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402

from gevent.fileobject import FileObjectThread  # noqa: E402

from tests.support.candidate_process import main  # noqa: E402

if __name__ == "__main__":
    sys.stdin = FileObjectThread(0, "r", close=False)  # whose reader lets the other greenlets run
    main()
