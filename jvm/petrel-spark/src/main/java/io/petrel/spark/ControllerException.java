package io.petrel.spark;

import java.io.IOException;

/** The controller gave no desired state; the message says why, for the log. */
final class ControllerException extends IOException {
  ControllerException(String message) {
    super(message);
  }
}
