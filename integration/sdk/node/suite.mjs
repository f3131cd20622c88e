// All tests, one after another: a fault that one orders must not strike another.

import "./chat.test.mjs";
import "./apis.test.mjs";
import "./errors.test.mjs";
import "./translation.test.mjs";
