// Symbol visibility: everything is hidden in libraedit.so unless it carries RAEDIT_API.
#pragma once

#define RAEDIT_API __attribute__((visibility("default")))
