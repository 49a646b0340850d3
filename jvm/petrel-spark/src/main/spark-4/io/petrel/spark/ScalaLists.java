package io.petrel.spark;

import java.util.ArrayList;
import java.util.List;
import scala.jdk.javaapi.CollectionConverters;
import scala.collection.immutable.Seq;

/** Lists between Java and Scala; what a {@code Seq} is and how it is made differs between Scala 2.12 and 2.13. */
public final class ScalaLists {
  private ScalaLists() {}

  /** A copy for Java. */
  public static <T> List<T> toJava(Seq<? extends T> seq) {
    return new ArrayList<>(CollectionConverters.asJava(seq));
  }

  /** A copy for Scala. */
  public static <T> Seq<T> toScala(List<T> list) {
    return CollectionConverters.asScala(list).toSeq();
  }
}
