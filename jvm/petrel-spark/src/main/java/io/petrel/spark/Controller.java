package io.petrel.spark;

import io.petrel.spark.protocol.DesiredState;
import io.petrel.spark.protocol.Json;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.ConnectException;
import java.net.HttpURLConnection;
import java.net.SocketTimeoutException;
import java.net.URL;
import java.nio.charset.StandardCharsets;

/**
 * The controller as the driver sees it: a heartbeat goes in, desired state comes out, or the reason why not. By the JDK's older
 * HTTP client, which does all in the calling thread and so costs less than half of the CPU of the newer one.
 */
final class Controller {
  /** Enough for any desired state and for an error of any sense. */
  private static final int MOST_REPLY_BYTES = 64 * 1024;

  private static final int MOST_WORDS = 300;

  private final URL address;
  private final String token;
  private final int timeoutMs;

  /**
   * The controller at {@code address}.
   *
   * @param token sent as bearer token, or null
   * @param timeoutMs time to connect, and to wait for the reply
   */
  Controller(URL address, String token, int timeoutMs) {
    this.address = address;
    this.token = token;
    this.timeoutMs = timeoutMs;
  }

  /** Posts a heartbeat and waits for the answer. */
  DesiredState post(byte[] heartbeat) throws ControllerException {
    int status;
    byte[] reply;
    try {
      HttpURLConnection connection = (HttpURLConnection) address.openConnection();
      connection.setConnectTimeout(timeoutMs);
      connection.setReadTimeout(timeoutMs);
      // A redirect would carry the token to another place.
      connection.setInstanceFollowRedirects(false);
      connection.setRequestMethod("POST");
      connection.setRequestProperty("Content-Type", "application/json");
      if (token != null) {
        connection.setRequestProperty("Authorization", "Bearer " + token);
      }
      connection.setDoOutput(true);
      connection.getOutputStream().write(heartbeat);
      status = connection.getResponseCode();
      // Read to its end, the connection serves the next heartbeat too.
      reply = read(status < HttpURLConnection.HTTP_BAD_REQUEST ? connection.getInputStream() : connection.getErrorStream());
    } catch (ConnectException nobody) {
      throw new ControllerException("refused the connection");
    } catch (SocketTimeoutException slow) {
      throw new ControllerException("did not answer within " + timeoutMs + " ms");
    } catch (IOException failed) {
      throw new ControllerException("was not reached: " + failed.getMessage());
    }
    if (status != HttpURLConnection.HTTP_OK) {
      throw new ControllerException("answered " + status + ": " + words(reply));
    }
    try {
      return Json.readDesiredState(reply);
    } catch (IOException garbage) {
      throw new ControllerException("answered with what is no desired state: " + garbage.getMessage());
    }
  }

  /** All of a reply, as long as that is neither long nor slow: a peer that is no controller must not hold up the driver. */
  private byte[] read(InputStream body) throws IOException {
    ByteArrayOutputStream reply = new ByteArrayOutputStream();
    if (body == null) {
      return reply.toByteArray();
    }
    long startNs = System.nanoTime();
    byte[] part = new byte[4096];
    try (body) {
      for (int count = body.read(part); count >= 0; count = body.read(part)) {
        reply.write(part, 0, count);
        if (reply.size() > MOST_REPLY_BYTES) {
          throw new IOException("the reply has more than " + MOST_REPLY_BYTES + " bytes");
        }
        if (System.nanoTime() - startNs > timeoutMs * 1_000_000L) {
          throw new SocketTimeoutException();
        }
      }
    }
    return reply.toByteArray();
  }

  private static String words(byte[] body) {
    String text = new String(body, StandardCharsets.UTF_8).strip();
    return text.length() > MOST_WORDS ? text.substring(0, MOST_WORDS) + "..." : text;
  }
}
