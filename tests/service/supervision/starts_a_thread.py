"""What a module that is preloaded must not do."""

import threading

threading.Thread(target=threading.Event().wait, daemon=True).start()
