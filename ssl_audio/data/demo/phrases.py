"""Everyday phrases in twelve languages, from which the demo corpus composes its sentences.

All subjects are third person singular (masculine in Hindi, where the verb agrees in gender), so any
subject goes with any predicate; ``order`` says how the three parts follow each other.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phrases:
    """Parts of a sentence: ``order`` holds "s", "p" and "a" (subject, predicate, adverbial)."""

    subjects: tuple[str, ...]
    predicates: tuple[str, ...]
    adverbials: tuple[str, ...]
    order: str
    separator: str
    full_stop: str

    @property
    def num_sentences(self) -> int:
        return len(self.subjects) * len(self.predicates) * len(self.adverbials)

    def sentence(self, index: int) -> str:
        """Sentence number ``index`` of ``num_sentences``, capitalised and with a full stop."""
        assert 0 <= index < self.num_sentences
        rest, adverbial = divmod(index, len(self.adverbials))
        subject, predicate = divmod(rest, len(self.predicates))
        part = {
            "s": self.subjects[subject],
            "p": self.predicates[predicate],
            "a": self.adverbials[adverbial],
        }
        text = self.separator.join(part[name] for name in self.order)
        return text[0].upper() + text[1:] + self.full_stop


def _phrases(
    subjects: str,
    predicates: str,
    adverbials: str,
    order: str = "spa",
    separator: str = " ",
    full_stop: str = ".",
) -> Phrases:
    """Parts from comma-separated lists."""

    def listed(part: str) -> tuple[str, ...]:
        return tuple(phrase.strip() for phrase in part.split(","))

    parts = listed(subjects), listed(predicates), listed(adverbials)
    return Phrases(*parts, order=order, separator=separator, full_stop=full_stop)


PHRASES: dict[str, Phrases] = {
    "cmn": _phrases(
        "老师, 我的姐姐, 医生, 小男孩, 邻居, 厨师, 那位老人, 司机, 年轻的画家, 护士",
        "看一本旧书, 买新鲜的面包, 写一封长信, 喝一杯热茶, 修理自行车, 学习外语, 等朋友,"
        " 卖蔬菜水果, 画一座高山, 打开窗户, 找一把钥匙, 做午饭",
        "在花园里, 今天早上, 在市场, 每个星期五, 在火车站, 晚上九点, 在河边, 下雨的时候, 在厨房里,"
        " 跟孩子们一起",
        order="sap",
        separator="",
        full_stop="。",
    ),
    "de": _phrases(
        "der alte Lehrer, meine Schwester, die Ärztin, ein kleiner Junge, unser Nachbar, der Koch,"
        " die Großmutter, ein müder Fahrer, die junge Malerin, der Bürgermeister",
        "liest einen Brief, kauft frisches Brot, schreibt ein langes Buch, trinkt heißen Tee,"
        " repariert das Fahrrad, öffnet leise die Tür, sucht den Schlüssel, verkauft schöne Blumen,"
        " zeichnet eine Brücke, kocht dicke Suppe, zählt die Münzen, erzählt eine Geschichte",
        "im Garten, heute Morgen, auf dem Markt, jeden Freitag, am Bahnhof, kurz vor Mitternacht,"
        " neben dem Fluss, trotz des Regens, in der Küche, mit den Kindern",
    ),
    "en": _phrases(
        "the old teacher, my sister, the doctor, a little boy, our neighbour, the cook,"
        " her grandmother, a tired driver, the young painter, the mayor",
        "reads a letter, buys fresh bread, writes a long book, drinks hot tea, repairs the bicycle,"
        " opens the window, looks for the key, sells yellow flowers, draws a bridge,"
        " makes thick soup, counts the coins, tells a strange story",
        "in the garden, this morning, at the market, every Friday, near the station,"
        " just before midnight, beside the river, despite the rain, in the kitchen,"
        " with the children",
    ),
    "es": _phrases(
        "el viejo maestro, mi hermana, la doctora, un niño pequeño, nuestro vecino, el cocinero,"
        " la abuela, un chófer cansado, la joven pintora, el alcalde",
        "lee una carta, compra pan fresco, escribe un libro largo, bebe té caliente,"
        " arregla la bicicleta, abre la ventana, busca la llave, vende flores amarillas,"
        " dibuja un puente, prepara una sopa, cuenta las monedas, narra una historia extraña",
        "en el jardín, esta mañana, en el mercado, todos los viernes, cerca de la estación,"
        " poco antes de medianoche, junto al río, a pesar de la lluvia, en la cocina,"
        " con los niños",
    ),
    "fi": _phrases(
        "vanha opettaja, siskoni, lääkäri, pieni poika, naapurimme, kokki, isoäiti,"
        " väsynyt kuljettaja, nuori taidemaalari, pormestari",
        "lukee kirjettä, ostaa tuoretta leipää, kirjoittaa pitkää kirjaa, juo kuumaa teetä,"
        " korjaa polkupyörää, avaa ikkunan, etsii avainta, myy keltaisia kukkia, piirtää siltaa,"
        " keittää keittoa, laskee kolikoita, kertoo outoa tarinaa",
        "puutarhassa, tänä aamuna, torilla, joka perjantai, aseman lähellä, vähän ennen keskiyötä,"
        " joen rannalla, sateesta huolimatta, keittiössä, lasten kanssa",
    ),
    "fr": _phrases(
        "le vieux professeur, ma sœur, la médecin, un petit garçon, notre voisin, le cuisinier,"
        " la grand-mère, un chauffeur fatigué, la jeune peintre, le maire",
        "lit une lettre, achète du pain frais, écrit un long livre, boit du thé chaud,"
        " répare le vélo, ouvre la fenêtre, cherche la clé, vend des fleurs jaunes,"
        " dessine un pont, prépare une soupe, compte les pièces, raconte une histoire étrange",
        "dans le jardin, ce matin, au marché, chaque vendredi, près de la gare,"
        " juste avant minuit, au bord de la rivière, malgré la pluie, dans la cuisine,"
        " avec les enfants",
    ),
    "hi": _phrases(
        "बूढ़ा शिक्षक, मेरा भाई, डॉक्टर, छोटा लड़का, हमारा पड़ोसी, रसोइया, दादा, थका हुआ चालक,"
        " जवान चित्रकार, किसान",
        "किताब पढ़ता है, ताज़ी रोटी खरीदता है, लंबा पत्र लिखता है, गरम चाय पीता है,"
        " साइकिल ठीक करता है, खिड़की खोलता है, चाबी ढूँढता है, पीले फूल बेचता है, पुल बनाता है,"
        " दाल पकाता है, सिक्के गिनता है, अजीब कहानी सुनाता है",
        "बगीचे में, आज सुबह, बाज़ार में, हर शुक्रवार को, स्टेशन के पास, आधी रात से पहले,"
        " नदी के किनारे, बारिश में, रसोई में, बच्चों के साथ",
        order="sap",
        full_stop="।",
    ),
    "it": _phrases(
        "il vecchio maestro, mia sorella, la dottoressa, un bambino piccolo, il nostro vicino,"
        " il cuoco, la nonna, un autista stanco, la giovane pittrice, il sindaco",
        "legge una lettera, compra il pane fresco, scrive un lungo libro, beve tè caldo,"
        " ripara la bicicletta, apre la finestra, cerca la chiave, vende fiori gialli,"
        " disegna un ponte, prepara la zuppa, conta le monete, racconta una storia strana",
        "nel giardino, questa mattina, al mercato, ogni venerdì, vicino alla stazione,"
        " poco prima di mezzanotte, accanto al fiume, nonostante la pioggia, in cucina,"
        " con i bambini",
    ),
    "pl": _phrases(
        "stary nauczyciel, moja siostra, lekarka, mały chłopiec, nasz sąsiad, kucharz, babcia,"
        " zmęczony kierowca, młoda malarka, burmistrz",
        "czyta list, kupuje świeży chleb, pisze długą książkę, pije gorącą herbatę,"
        " naprawia rower, otwiera okno, szuka klucza, sprzedaje żółte kwiaty, rysuje most,"
        " gotuje gęstą zupę, liczy monety, opowiada dziwną historię",
        "w ogrodzie, dziś rano, na rynku, w każdy piątek, blisko dworca, tuż przed północą,"
        " obok rzeki, mimo deszczu, w kuchni, razem z dziećmi",
    ),
    "ru": _phrases(
        "старый учитель, моя сестра, врач, маленький мальчик, наш сосед, повар, бабушка,"
        " усталый водитель, молодая художница, пожилой рыбак",
        "читает письмо, покупает свежий хлеб, пишет длинную книгу, пьёт горячий чай,"
        " чинит велосипед, открывает окно, ищет ключ, продаёт жёлтые цветы, рисует мост,"
        " варит густой суп, считает монеты, рассказывает странную историю",
        "в саду, сегодня утром, на рынке, каждую пятницу, возле вокзала, незадолго до полуночи,"
        " у реки, несмотря на дождь, на кухне, вместе с детьми",
    ),
    "sw": _phrases(
        "mwalimu mzee, dada yangu, daktari, mtoto mdogo, jirani yetu, mpishi, bibi,"
        " dereva aliyechoka, mchoraji kijana, mvuvi",
        "anasoma barua, ananunua mkate mpya, anaandika kitabu kirefu, anakunywa chai moto,"
        " anatengeneza baiskeli, anafungua dirisha, anatafuta ufunguo, anauza maua mazuri,"
        " anachora daraja, anapika mchuzi, anahesabu pesa, anasimulia hadithi ya ajabu",
        "bustanini, leo asubuhi, sokoni, kila ijumaa, karibu na kituo, kabla ya usiku wa manane,"
        " kando ya mto, wakati wa mvua, jikoni, pamoja na watoto",
    ),
    "tr": _phrases(
        "yaşlı öğretmen, kız kardeşim, doktor, küçük bir çocuk, komşumuz, aşçı, büyükanne,"
        " yorgun şoför, genç ressam, balıkçı",
        "mektup okuyor, taze ekmek alıyor, uzun bir kitap yazıyor, sıcak çay içiyor,"
        " bisikleti tamir ediyor, pencereyi açıyor, anahtarı arıyor, sarı çiçekler satıyor,"
        " köprü çiziyor, çorba pişiriyor, paraları sayıyor, garip bir hikâye anlatıyor",
        "bahçede, bu sabah, pazarda, her cuma, istasyonun yanında, gece yarısından önce,"
        " nehir kenarında, yağmura rağmen, mutfakta, çocuklarla birlikte",
        order="sap",
    ),
}
