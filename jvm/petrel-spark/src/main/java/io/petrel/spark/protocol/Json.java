package io.petrel.spark.protocol;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.PropertyNamingStrategies;
import com.fasterxml.jackson.databind.exc.ValueInstantiationException;
import java.io.IOException;

/** How messages look as bytes: JSON with the field names of {@code docs/protocol.md}, by the Jackson that Spark carries. */
public final class Json {
  private static final ObjectMapper MAPPER =
      new ObjectMapper()
          .setPropertyNamingStrategy(PropertyNamingStrategies.SNAKE_CASE)
          // A newer controller may say more than this plugin understands.
          .disable(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES)
          .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS);

  private Json() {}

  /** The bytes of a heartbeat. */
  public static byte[] write(Heartbeat heartbeat) throws JsonProcessingException {
    return MAPPER.writeValueAsBytes(heartbeat);
  }

  /**
   * The desired state in a reply.
   *
   * @throws IOException saying in one line why it is none
   */
  public static DesiredState readDesiredState(byte[] reply) throws IOException {
    try {
      DesiredState desired = MAPPER.readValue(reply, DesiredState.class);
      if (desired == null) {
        throw new IOException("null");
      }
      return desired;
    } catch (ValueInstantiationException invalid) {
      throw new IOException(invalid.getCause().getMessage(), invalid);
    } catch (JsonProcessingException garbage) {
      throw new IOException(garbage.getOriginalMessage(), garbage);
    }
  }

  /** A tree for JSON whose shape is the source's own (offsets); a missing node where it is not JSON. */
  public static JsonNode readTree(String text) {
    try {
      return MAPPER.readTree(text);
    } catch (JsonProcessingException notJson) {
      return MAPPER.missingNode();
    }
  }
}
